"""The workers, the queue and the usage."""
from __future__ import annotations

import pytest

from tests.support.browser import DESKTOP, PHONE


def figures(page, selector):
    texts = page.texts(f"{selector} dt, {selector} dd")
    return dict(zip(texts[::2], texts[1::2]))


def test_the_workers_their_models_and_the_queue_are_shown(page, server):
    server.add_task("One")
    server.add_task("Two", state="completed")
    page.open("/#workers").wait_for_text("#worker-list", "gpu-1")
    assert figures(page, "#counts") == {
        "Queued": "1", "Running": "0", "Finished": "1"}
    assert page.texts("#worker-list .chip") == [
        "qwen3:4b · loaded", "llama3:latest"]
    assert page.text("#loaded-list").split("\n") == ["qwen3:4b", "4.0B · Q4_K_M · 3.0 GiB"]


def test_a_worker_is_shown_with_the_tasks_of_yours_that_it_runs(page, server):
    server.add_task("One")
    server.add_task("Two", state="running", worker="gpu-1")
    server.add_task("Three", state="completed", worker="gpu-1")
    page.open("/#workers").wait_for_text("#worker-list", "Runs your task 2: Two")
    assert page.texts("#worker-list .runs") == ["Runs your task 2: Two"]


def test_a_worker_that_cannot_run_chats_is_shown_so(page, server):
    server.workers = [{"worker": "attic", "connected": True, "models": ["llama3"], "relays": False},
                      {"worker": "cellar", "connected": True, "models": [], "relays": True}]
    page.open("/#workers").wait_for_text("#worker-list", "cellar")
    assert page.texts("#worker-list > li > .hint") == [
        "1 model · too old for chats", "0 models"]


def test_of_hundreds_of_models_the_loaded_ones_are_shown_and_the_rest_are_counted(page, server):
    names = [f"model-{number}" for number in range(300)]
    server.workers = [{"worker": "gpu-1", "connected": True, "models": [*names[:298], "qwen3:4b"],
                       "models_omitted": 2, "relays": True}]
    page.open("/#workers").wait_for_text("#worker-list", "301 models")
    chips = page.texts("#worker-list .chip")
    assert (len(chips), chips[0], chips[-1]) == (
        31, "qwen3:4b · loaded", "271 further models")


def test_a_worker_that_comes_and_goes_is_shown_so(page, server):
    workers, server.workers, server.loaded = server.workers, [], []
    page.open("/#workers").wait_for_text("#workers", "No worker is connected.")
    page.wait_for_text("#workers", "No model is loaded.")
    server.workers = workers
    page.run("dispatchEvent(new Event('online'))")
    page.wait_for_text("#worker-list", "gpu-1")


def test_usage_is_shown_by_day_and_model(page, server):
    server.usage = [
        {"day": "2026-11-27", "model": "llama3:latest", "tasks": 3, "prompt_tokens": 1200,
         "answer_tokens": 3400, "gpu_seconds": 92.0},
        {"day": "2026-11-28", "model": "llama3:latest", "tasks": 1, "prompt_tokens": 10,
         "answer_tokens": 20, "gpu_seconds": 3.0},
        {"day": "2026-11-28", "model": "qwen3:4b", "tasks": 2, "prompt_tokens": 100,
         "answer_tokens": 200, "gpu_seconds": 4000.0}]
    page.open("/#usage").wait_for_text("#usage-table", "qwen3:4b")
    assert figures(page, "#usage-totals") == {
        "Tasks": "6", "Tokens in": "1.3K", "Tokens out": "3.6K", "GPU time": "1 h 8 min"}
    assert page.texts("#usage-table tbody tr") == [
        "Sat, Nov 28", "llama3:latest 1 10 20 3 s", "qwen3:4b 2 100 200 1 h 7 min",
        "Fri, Nov 27", "llama3:latest 3 1.2K 3.4K 2 min"]


def test_without_usage_the_page_says_so(page, server):
    page.open("/#usage").wait_for_text("#usage", "No task was completed in these days.")


def test_the_views_are_links_with_a_history(page, server):
    page.open().click("a[data-view=workers]")
    page.wait_for_text("#worker-list", "gpu-1")
    assert page.text("nav a[aria-current=page]") == "Workers"
    page.driver.back()
    page.wait_for(lambda: page.is_shown("#composer"), "the chat")


def test_on_a_phone_the_tasks_are_a_view_of_their_own(page, server):
    server.add_task("First prompt").complete()
    page.show_as(PHONE)
    page.open()
    assert not page.is_shown("#tasks")
    page.click("a[data-view=tasks]")
    page.click("[data-task='1'] .open")
    page.wait_for_text(".answer .status", "Completed")
    assert not page.is_shown("#tasks")
    page.show_as(DESKTOP)
    page.wait_for(lambda: page.is_shown("#tasks") and page.is_shown("#chat"), "both")


@pytest.mark.parametrize("kept_days, offered, shown", [
    (90, [7, 30, 90], "30"), (365, [7, 30, 90, 365], "30"), (14, [7, 14], "14"), (1, [1], "1")])
def test_usage_is_offered_for_the_days_that_are_kept(page, server, kept_days, offered, shown):
    server.kept_days = kept_days
    page.open("/#usage").wait_for_text("#usage", "No task was completed")
    page.wait_for(lambda: len(page.all("#usage-days option")) == len(offered), "the days")
    texts = [f"{days} day{'' if days == 1 else 's'}" for days in offered]
    assert page.texts("#usage-days option") == texts
    assert page.run("return document.querySelector('#usage-days').value") == shown
