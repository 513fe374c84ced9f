"""The page without a mouse, with a screen reader, on a phone, and as its reader prefers it."""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.browser import DESKTOP, ENTER, PHONE, TAB
from tests.support.page_server import TOKEN, ago
from tests.support.services import require_service

CHECK = """
const done = arguments[arguments.length - 1];
const rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
axe.run(document, {runOnly: rules}).then((found) => done(found.violations.map((violation) => [
    violation.impact, violation.id, violation.nodes.map((node) => node.html)])));
"""


FILLED = {"workers": "#worker-list", "usage": "#usage-table"}


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core, out of a package that carries it."""
    found = find_spec("axe_playwright_python")
    require_service(None if found else "axe_playwright_python is not installed")
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")


@pytest.fixture
def serious(page, axe):
    """Return what axe-core finds serious on the page as it is now."""
    def check():
        # The page's policy refuses scripts in the page, but not those of a debugger.
        page.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
        found = page.driver.execute_async_script(CHECK)
        return [violation for violation in found if violation[0] in ("serious", "critical")]

    return check


def fill(server):
    server.add_task("A first prompt", state="completed", started_at=ago(100), finished_at=ago(90))
    server.add_task("A second prompt", state="failed", error="out of memory", finished_at=ago(60))
    server.add_task("A third prompt", state="cancelled", finished_at=ago(50))
    server.add_task("A fourth prompt", queue_position=1, eta_seconds=20.0)
    server.usage = [{"day": "2026-11-28", "model": "llama3:latest", "tasks": 1, "prompt_tokens": 10,
                     "answer_tokens": 20, "gpu_seconds": 3.0}]


# Colors depend on the scheme, and the layout on the size.
@pytest.mark.parametrize("size, scheme", [(DESKTOP, "light"), (PHONE, "dark")],
                         ids=["light desktop", "dark phone"])
def test_axe_finds_nothing_serious_in_any_view(page, server, serious, size, scheme):
    fill(server)
    page.show_as(size, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.open().ask("Why?")
    task = server.next_task()
    task.start()
    task.think("Hmm.")
    task.write("So:\n\n```\ncode\n```\n\nYes.")
    page.wait_for_text(".reply", "code")
    page.click(".thinking summary")
    assert serious() == []
    task.fail("out of memory")
    page.wait_for_text(".answer .status", "out of memory")
    for view in ("chat", "workers", "usage") + (("tasks",) if size == PHONE else ()):
        page.click(f"a[data-view={view}]")
        page.wait_for_text(FILLED.get(view, "body"), "l")
        assert serious() == [], view


def test_axe_finds_nothing_serious_in_the_dialogs(page, server, serious):
    fill(server)
    page.open().click("[data-task='1'] > button:last-child")
    page.wait_for_text("#confirm-dialog", "Erase")
    assert serious() == []
    server.token = TOKEN
    page.open("/?again").give_token("wrong")
    page.wait_for_text("#token-error", "Unknown or revoked token.")
    assert serious() == []


def test_everything_can_be_reached_and_used_with_the_keyboard(page, server):
    server.add_task("A first prompt").complete()
    page.open().find("[data-task='1']")
    page.wait_for_text("#model", "llama3")
    reached = []
    for _ in range(11):
        page.press(TAB)
        focused = page.focused()
        reached.append(focused["id"] or focused["label"] or focused["text"].split("\n")[0])
    assert reached == [
        "Skip to the prompt", "Chat", "Workers", "Usage", "new-conversation", "A first prompt",
        "Erase task 1", "conversation", "prompt", "model", "send"]


def test_the_first_link_skips_to_the_prompt(page, server):
    page.open()
    page.press(TAB)
    page.press(ENTER)
    page.wait_for(lambda: page.focused()["id"] == "prompt", "the focus in the prompt")


def test_a_screen_reader_hears_the_answer_once_and_not_word_by_word(page, server):
    page.open()
    page.run("window.heard = []; new MutationObserver(() => heard.push("
             "document.querySelector('#announcement').textContent))"
             ".observe(document.querySelector('#announcement'), {childList: true})")
    page.ask("Why is the sky blue?")
    task = server.next_task()
    task.wait_in_queue(2)
    page.wait_for_text("#announcement", "Place 2")
    task.start()
    page.wait_for_text("#announcement", "at work")
    for word in ("Because", "of", "Rayleigh", "scattering."):
        task.write(word + " ")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    assert page.run("return heard") == [
        "Sent.", "Place 2 in the queue · waiting for a worker", "The model is at work.",
        "The answer is complete: Because of Rayleigh scattering. "]
    assert page.run("return !document.querySelector('#turns').closest('[aria-live], [role=log]')")


def test_a_view_that_is_chosen_gets_the_focus(page, server):
    page.open().click("a[data-view=workers]")
    page.wait_for(lambda: page.focused()["id"] == "workers", "the focus in the view")


def test_nothing_moves_for_those_who_prefer_so(page, server):
    page.show_as(DESKTOP, prefers_reduced_motion="reduce")
    page.open().ask("Why?")
    server.next_task().start()
    page.wait_for_text(".answer .status", "Waiting")
    assert page.run("return document.getAnimations().length") == 0
    page.show_as(DESKTOP)
    page.wait_for(lambda: page.run("return document.getAnimations().length") == 1, "it moves")


def test_dark_and_light_follow_the_preference(page, server):
    def ground():
        return page.run("return getComputedStyle(document.body).backgroundColor")

    page.show_as(DESKTOP, prefers_color_scheme="light")
    page.open()
    light = ground()
    page.show_as(DESKTOP, prefers_color_scheme="dark")
    page.wait_for(lambda: ground() != light, "another color")
