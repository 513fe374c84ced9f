"""The list of the user's tasks: what it shows, and what can be done with a task."""
from __future__ import annotations

import pytest

from tests.support.browser import DESKTOP, ESCAPE, PHONE
from tests.support.page_server import TOKEN, ago


def test_tasks_are_listed_newest_first_with_their_state(page, server):
    server.add_task("First prompt", state="completed", started_at=ago(200), finished_at=ago(120))
    server.add_task("Second prompt", state="failed", error="out of memory", finished_at=ago(60))
    server.add_task("Third prompt", state="queued", queue_position=3, eta_seconds=250.0,
                    waiting_for="a worker that has llama3")
    page.open()
    page.wait_for_text("#task-list", "First prompt")
    assert page.texts(".task") == [
        "Third prompt queued place 3 · about 4 min left · llama3:latest"
        " · waiting for a worker that has llama3 Cancel",
        "Second prompt failed llama3:latest · 1 min ago · out of memory Erase",
        "First prompt completed llama3:latest · 2 min ago · took 1 min Erase",
    ]


def test_without_tasks_the_list_says_so(page, server):
    page.open().wait_for_text("#tasks", "You have no tasks yet.")


def test_nothing_is_said_of_tasks_that_the_page_does_not_know_yet(page, server):
    server.token = TOKEN
    page.open()
    page.wait_for(lambda: page.is_shown("#token-dialog"), "the question for a token")
    assert not page.is_shown("#no-tasks")
    page.give_token(TOKEN)
    page.wait_for(lambda: page.is_shown("#no-tasks"), "the hint that there are no tasks")


@pytest.mark.parametrize("state", ["queued", "running"])
def test_no_time_is_promised_for_a_task_that_takes_longer_than_others(page, server, state):
    server.add_task("Slow prompt", state=state, queue_position=None, waiting_for=None,
                    eta_seconds=0.0)
    page.open().wait_for_text("#task-list", "Slow prompt")
    assert page.text(".task .line").split() == [state, "llama3:latest"]


def test_a_number_that_a_restarted_server_gives_again_means_another_task(page, server):
    """A server that keeps tasks in memory numbers them from 1 again."""
    page.open().ask("Name a color.")
    task = server.next_task()
    task.start()
    task.write("Red.")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    task.fields["summary"] = "Name an animal."
    page.run("dispatchEvent(new Event('hashchange'))")
    page.wait_for_text("#task-list", "Name an animal.")
    assert not page.all(".open[aria-current]")
    task.events[-2] = task.events[-2]._replace(data={"text": "Cat."})
    page.click("[data-task='1'] .open")
    page.wait_for_text(".question", "Name an animal.")
    page.wait_for_text(".reply", "Cat.")
    page.click("[data-task='1'] > button:last-child")
    page.click("#confirm-yes")
    page.wait_for(lambda: page.all(".turn") == [], "an empty chat")
    assert "Red." in page.run("return JSON.stringify(sessionStorage)")


def test_a_task_that_moves_is_shown_in_its_new_state(page, server):
    task = server.add_task("Slow prompt")
    page.open().wait_for_text("#task-list", "queued")
    task.start()
    page.wait_for_text("#task-list", "running")
    task.complete()
    page.wait_for_text("#task-list", "completed")


def test_the_list_leaves_the_focus_where_it_is(page, server):
    task = server.add_task("Slow prompt")
    page.open().find("[data-task='1'] .open")
    page.run("document.querySelector('[data-task=\"1\"] .open').focus()")
    task.start()
    server.add_task("New prompt")
    page.wait_for_text("#task-list", "New prompt")
    assert "Slow prompt" in page.focused()["text"]


def test_an_open_task_is_followed_from_its_beginning(page, server):
    task = server.add_task("Submitted with curl")
    task.start()
    task.write("The ans")
    page.open().click("[data-task='1'] .open")
    page.wait_for_text(".reply", "The ans")
    assert page.text(".question .text") == "Submitted with curl"
    task.write("wer.")
    task.complete()
    page.wait_for_text(".reply", "The answer.")
    assert page.find("[data-task='1'] .open").get_attribute("aria-current") == "true"


def test_a_prompt_after_a_task_from_elsewhere_starts_a_new_chat(page, server):
    """Only the beginning of its prompt is known, so it cannot go on."""
    task = server.add_task("x" * 200, state="running")
    task.start()
    task.complete()
    page.open().click("[data-task='1'] .open")
    page.wait_for_text("#composer-note", "starts a new chat")
    assert page.text(".question .text") == "x" * 200 + "…"
    page.wait_for_text(".answer .status", "Completed")
    page.ask("And now?")
    server.next_task()
    assert server.submissions[0]["messages"] == [{"role": "user", "content": "And now?"}]


def test_a_task_of_a_chat_opens_the_whole_chat(page, server):
    page.open().ask("Name a color.")
    task = server.next_task()
    task.start()
    task.write("Red.")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.click("#new-conversation")
    page.click("[data-task='1'] .open")
    page.wait_for_text(".reply", "Red.")
    page.ask("Another one.")
    server.next_task()
    assert len(server.submissions[1]["messages"]) == 3


def test_a_failed_task_shows_its_error(page, server):
    server.add_task("Big prompt").fail("model requires more system memory")
    page.open().click("[data-task='1'] .open")
    page.wait_for_text(".answer .status", "model requires more system memory")


def test_the_answer_of_a_relayed_task_is_shown_as_it_is(page, server):
    server.add_task("Say hi.", state="completed", path="/v1/chat/completions")
    server.relayed_results[1] = {
        "result": '{"choices": []}', "http_status": 200, "content_type": "application/json"}
    page.open().click("[data-task='1'] .open")
    page.wait_for_text(".reply", '{"choices": []}')
    page.wait_for_text(".answer .status", "Completed")


def test_a_task_can_be_cancelled(page, server):
    task = server.add_task("Slow prompt")
    page.open().click("[data-task='1'] > button:last-child")
    page.wait_for_text("#task-list", "cancelled")
    assert task.state == "cancelled"


def test_a_cancelled_task_can_be_erased(page, server):
    server.add_task("Slow prompt").cancel()
    page.open().click("[data-task='1'] > button:last-child")
    page.click("#confirm-yes")
    page.wait_for_text("#tasks", "You have no tasks yet.")
    assert server.deleted == [1]


def test_a_task_that_completes_before_it_is_cancelled_is_not_erased(page, server):
    task = server.add_task("Slow prompt")
    page.open().find("[data-task='1']")
    with server.changed:
        task.fields["state"] = "completed"
    page.click("[data-task='1'] > button:last-child")
    page.wait_for_text("#task-list", "completed")
    assert (server.deleted, server.refused_deletions) == ([], 1)
    assert not page.is_shown("#connection")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_what_a_task_waits_for_is_shown_to_its_end(page, server, size):
    model = "m" * 60
    server.add_task(
        "Slow prompt", queue_position=1234, eta_seconds=250.0, model=model, waiting_for=(
            f"a worker with model {model} that can run chats (those connected are too old)"))
    page.show_as(size)
    page.open("/#tasks").find("[data-task='1']")
    assert page.run("const e = document.querySelector('.task .line');"
                    " return e.scrollHeight <= e.clientHeight")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_error_of_a_failed_task_is_shown_to_its_end(page, server, size):
    server.add_task("Prompt", started_at=ago(500)).fail(
        "an error was encountered while running the model: CUDA error (attempt 3 of 3).")
    page.show_as(size)
    page.open("/#tasks").find("[data-task='1']")
    assert page.run("const e = document.querySelector('.task .line');"
                    " return e.scrollHeight <= e.clientHeight")


def test_a_task_is_erased_only_after_a_question(page, server):
    server.add_task("Old prompt").complete()
    page.open().click("[data-task='1'] > button:last-child")
    page.wait_for_text("#confirm-dialog", "Old prompt")
    page.press(ESCAPE)
    page.wait_until_gone("#confirm-dialog")
    assert page.focused()["label"] == "Erase task 1"
    page.click("[data-task='1'] > button:last-child")
    page.click("#confirm-yes")
    page.wait_for_text("#tasks", "You have no tasks yet.")
    assert server.deleted == [1]


def test_what_is_erased_is_forgotten_by_the_tab_as_well(page, server):
    page.open().ask("My secret.")
    task = server.next_task()
    task.start()
    task.write("Your secret is safe.")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.click("[data-task='1'] > button:last-child")
    page.click("#confirm-yes")
    page.wait_for(lambda: page.all(".turn") == [], "an empty chat")
    assert "secret" not in page.run("return JSON.stringify(sessionStorage)")


def test_older_tasks_come_when_asked_for(page, server):
    for number in range(60):
        server.add_task(f"Prompt {number}", state="completed")
    page.open().wait_for_text("#task-list", "Prompt 59")
    assert len(page.all(".task")) == 50
    page.click("#older-tasks")
    page.wait_for(lambda: len(page.all(".task")) == 60, "60 tasks")
    assert not page.is_shown("#older-tasks")
