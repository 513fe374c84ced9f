"""A prompt, its answer while it is written, and the conversation that goes on."""
from __future__ import annotations

import json

import pytest

from tests.support.browser import ENTER, ESCAPE, PHONE, RELEASE, SHIFT


def start_answer(page, server, prompt):
    """Ask for an answer in a new page, and return its task, whose attempt has begun."""
    page.open().ask(prompt)
    task = server.next_task()
    task.start()
    return task


def test_a_prompt_is_answered_while_the_model_writes(page, server):
    page.open().ask("Why is the sky blue?")
    task = server.next_task()
    assert server.submissions == [{
        "messages": [{"role": "user", "content": "Why is the sky blue?"}], "model": "qwen3:4b"}]
    task.start()
    task.write("Because of ")
    page.wait_for_text(".reply", "Because of")
    assert page.text(".question .text") == "Why is the sky blue?"
    task.write("Rayleigh scattering.")
    page.wait_for_text(".answer", "Because of Rayleigh scattering.")
    task.complete(eval_count=12, eval_duration=500_000_000, total_duration=2_000_000_000)
    page.wait_for_text(".answer .status", "12 tokens · 24.0 tokens/s · 2 s")
    assert page.is_shown("#send") and not page.is_shown("#stop")


def test_the_speed_is_shown_while_the_model_writes(page, server):
    task = start_answer(page, server, "Count.")
    task.write("1 ")
    page.wait_for_text(".answer .status", "Writing")
    page.run("const now = performance.now.bind(performance); performance.now = () => now() + 2000")
    task.write("2 3 4 5 6 7 8 9 10 11 12 13")
    page.wait_for_text(".answer .status", "tokens/s")


def test_thinking_is_folded_away_and_can_be_unfolded(page, server):
    task = start_answer(page, server, "Why?")
    task.think("Let me see.")
    page.wait_for_text(".thinking summary", "Thinking…")
    assert not page.is_shown(".thoughts")
    page.click(".thinking summary")
    page.wait_for_text(".thoughts", "Let me see.")
    task.write("So.")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    assert page.text(".thinking summary") == "Thinking"
    assert page.text(".thoughts") == "Let me see."


def test_the_next_prompt_continues_the_conversation(page, server):
    task = start_answer(page, server, "Name a color.")
    task.think("Hmm.")
    task.write("Red.")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.ask("Another one.")
    server.next_task()
    assert server.submissions[1]["messages"] == [
        {"role": "user", "content": "Name a color."}, {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Another one."}]


def test_a_new_chat_forgets_the_conversation(page, server):
    task = start_answer(page, server, "Name a color.")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.click("#new-conversation")
    assert page.all(".turn") == []
    page.ask("Name a number.")
    server.next_task()
    assert server.submissions[1]["messages"] == [{"role": "user", "content": "Name a number."}]


def test_the_models_are_listed_and_a_loaded_one_is_marked_and_chosen(page, server):
    page.open()
    page.wait_for_text("#model", "llama3:latest · 8.0B")
    assert page.texts("#model option") == ["llama3:latest · 8.0B", "qwen3:4b · loaded · 4.0B"]
    assert page.find("#model").get_attribute("value") == "qwen3:4b"


def test_the_chosen_model_is_asked_also_after_a_reload(page, server):
    page.open()
    page.wait_for_text("#model", "llama3")
    page.find("#model").send_keys("llama3")
    page.driver.refresh()
    page.wait_for_text("#model", "llama3")
    page.ask("Why?")
    server.next_task()
    assert server.submissions[0]["model"] == "llama3:latest"


def test_a_prompt_that_is_faster_than_the_list_of_models_waits_for_it(page, server):
    server.may_list_models.clear()
    page.open().ask("Why?")
    page.wait_for_text(".answer .status", "Sending")
    server.may_list_models.set()
    server.next_task()
    assert server.submissions[0]["model"] == "qwen3:4b"


def test_without_workers_the_server_chooses_the_model(page, server):
    server.models = server.loaded = []
    page.open().ask("Why?")
    server.next_task()
    assert "model" not in server.submissions[0]


def test_an_answer_names_the_model_that_the_server_chose(page, server):
    server.models = []
    page.open().ask("Hello.")
    server.next_task().start()
    page.wait_for_text(".answer h3", "llama3")


def test_the_models_have_room_for_what_is_said_of_them(page, server):
    server.loaded = [{"name": "llama3:latest"}]
    page.open().wait_for_text("#model", "llama3:latest · loaded · 8.0B")
    width = "return document.querySelector('#model').offsetWidth"
    shown = page.run(width)
    page.run("document.querySelector('#model').style.maxWidth = 'none'")
    assert page.run(width) == shown


def test_the_conversation_stays_in_line_with_the_prompt_when_it_gets_a_scroll_bar(page, server):
    page.open().ask("Tell me a story.")
    task = server.next_task()
    task.start()
    left = "return document.querySelector('%s').getBoundingClientRect().left"
    assert page.run(left % "#turns") == page.run(left % "#composer")
    task.write("Once upon a time there was a queue. " * 300)
    page.wait_for(lambda: page.run(AT_END + " && e.scrollTop > 500"), "the end of the answer")
    assert page.run(left % "#turns") == page.run(left % "#composer")


def test_a_place_in_the_queue_is_shown_with_the_estimated_time(page, server):
    page.open().ask("Why?")
    task = server.next_task()
    task.fields["eta_seconds"] = 125.0
    task.wait_in_queue(3, "a worker that has qwen3:4b")
    page.wait_for_text(".answer .status", "Place 3 in the queue")
    page.wait_for_text(".answer .status", "waiting for a worker that has qwen3:4b")
    page.wait_for_text(".answer .status", "about 2 min left")


def test_the_stop_button_cancels_the_task_and_keeps_what_is_written(page, server):
    task = start_answer(page, server, "Count.")
    task.write("1, 2, 3")
    page.wait_for_text(".reply", "1, 2, 3")
    page.click("#stop")
    page.wait_for_text(".answer .status", "Stopped")
    assert task.state == "cancelled"
    assert page.text(".reply") == "1, 2, 3"
    assert page.focused()["id"] == "prompt"


def test_escape_stops_as_well(page, server):
    task = start_answer(page, server, "Count.")
    page.wait_for_text(".answer .status", "Waiting for the first words")
    page.press(ESCAPE)
    page.wait_for_text(".answer .status", "Stopped")
    assert task.state == "cancelled"


def test_an_answer_that_is_complete_before_the_stop_arrives_is_not_erased(page, server):
    task = start_answer(page, server, "Count.")
    page.wait_for_text(".answer .status", "Waiting for the first words")
    task.fields["state"] = "completed"  # The stream has not said so yet.
    page.click("#stop")
    page.wait_for_text("#task-list", "completed")
    assert server.deleted == []


def test_a_failure_is_shown_and_the_prompt_can_be_tried_again(page, server):
    task = start_answer(page, server, "Why?")
    task.fail("model requires more system memory")
    page.wait_for_text(".answer .status", "model requires more system memory")
    page.click("button[name='Try again']")
    again = server.next_task()
    again.start()
    again.write("So.")
    again.complete()
    page.wait_for_text(".reply", "So.")
    assert len(page.all(".turn")) == 2
    assert server.submissions[0] == server.submissions[1]
    assert server.submission_keys[0] != server.submission_keys[1]


def test_a_refused_prompt_shows_why(page, server):
    server.submission_answers.append((400, {"error": "messages[0] is too long."}))
    page.open().ask("Why?")
    page.wait_for_text(".answer .status", "messages[0] is too long.")
    assert page.is_shown("#send")


def test_a_cut_answer_is_not_taken_for_a_whole_one(page, server):
    task = start_answer(page, server, "Why?")
    task.write("Because")
    task.complete(done_reason="length")
    page.wait_for_text(".answer .status", "cut off at the model's limit")


def test_a_new_attempt_starts_the_answer_over(page, server):
    task = start_answer(page, server, "Why?")
    task.write("Becau")
    page.wait_for_text(".reply", "Becau")
    task.start()
    task.write("Since")
    page.wait_for_text(".reply", "Since")
    assert page.text(".reply") == "Since"
    page.wait_for_text(".answer .status", "attempt 2")


def test_shift_enter_starts_a_new_line(page, server):
    page.open().find("#prompt").send_keys("one", SHIFT, ENTER, RELEASE, "two", ENTER)
    server.next_task()
    assert server.submissions[0]["messages"][0]["content"] == "one\ntwo"


def test_an_empty_prompt_is_not_sent(page, server):
    page.open().ask("  ")
    page.ask("Why?")
    server.next_task()
    assert [len(submission["messages"]) for submission in server.submissions] == [1]


def write_much(page, server):
    page.ask("Write.")
    task = server.next_task()
    task.start()
    task.write("y" * 400_000)
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    stored = page.run("return JSON.stringify(sessionStorage)")
    page.driver.refresh()
    page.wait_for(lambda: len(page.text(".reply")) >= 400_000, "the answer")
    return stored


def test_a_full_tab_forgets_the_oldest_chat(page, server):
    """A tab may keep about 5 million characters."""
    page.open()
    old = json.dumps({"id": "old", "turns": [{"role": "user", "text": "x" * 4_900_000}]})
    page.run("sessionStorage.setItem('llm-tasks:conversation:old', arguments[0])", old)
    stored = write_much(page, server)
    assert "xxx" not in stored and "yyy" in stored


def test_an_answer_that_a_tab_cannot_keep_comes_again_after_a_reload(page, server):
    page.open()
    page.run("sessionStorage.setItem('another page', 'x'.repeat(4_900_000))")
    stored = write_much(page, server)
    assert "Write." in stored and "yyy" not in stored
    page.ask("Write more.")
    server.next_task()
    page.driver.refresh()
    page.wait_for(lambda: len(page.all(".question")) == 2, "both prompts")


def test_only_the_conversation_scrolls_and_not_the_page_around_it(page, server):
    task = start_answer(page, server, "Long")
    task.write("line\n\n" * 100)
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.ask("Next")
    server.next_task().start()
    page.wait_for_text(".answer:last-child .status", "first words")
    assert page.run("const e = document.scrollingElement; return e.scrollHeight <= innerHeight")


AT_END = ("const e = document.querySelector('#conversation');"
          " return e.scrollHeight - e.scrollTop - e.clientHeight < 2")


@pytest.fixture
def long_chat(page, server):
    """A phone at the end of a long answer that is being written."""
    page.show_as(PHONE)
    page.open().ask("Tell me a story.")
    task = server.next_task()
    task.start()
    task.write("Once upon a time there was a queue. " * 300)
    page.wait_for(lambda: page.run(AT_END + " && e.scrollTop > 500"), "the end of the answer")
    return task


def test_a_phone_that_is_turned_stays_at_the_end_of_the_conversation(page, long_chat):
    for size in (PHONE[::-1], PHONE, (PHONE[0], 400), PHONE[::-1]):
        page.show_as(size)
        page.wait_for(lambda: page.run(AT_END + " && e.scrollTop > 500"), f"the end at {size}")
    long_chat.write("The end.")
    page.wait_for_text(".reply", "The end.")
    page.wait_for(lambda: page.run(AT_END), "the end of the answer")


def test_who_reads_further_up_stays_there_when_the_phone_is_turned(page, long_chat):
    page.run("const e = document.querySelector('#conversation');"
             " e.addEventListener('scroll', () => { window.hasScrolled = true; });"
             " e.scrollTop = 10")
    page.wait_for(lambda: page.run("return window.hasScrolled"), "the beginning")
    page.show_as(PHONE[::-1])
    long_chat.write("The end.")
    page.wait_for_text(".reply", "The end.")
    assert page.run("return document.querySelector('#conversation').scrollTop < 500")


def models(page):
    return page.run("return [...document.querySelectorAll('#model option')].map((e) => e.text)")


def test_a_chosen_model_that_no_worker_has_stands_alone_until_workers_come_back(page, server):
    page.open().wait_for_text("#model", "llama3:latest")
    page.run("const s = document.querySelector('#model'); s.value = 'llama3:latest';"
             " s.dispatchEvent(new Event('change'))")
    kept, server.models = server.models, []
    server.may_list_models.clear()
    page.open()
    page.wait_for(lambda: models(page) == ["llama3:latest"], "the chosen model")
    server.may_list_models.set()
    page.wait_for(lambda: models(page) == ["llama3:latest · no worker has it now"], "the remark")
    server.models = kept
    page.run("dispatchEvent(new Event('hashchange'))")
    page.wait_for(lambda: len(models(page)) == 2, "both models")
    assert not any("no worker" in model for model in models(page))


def test_without_models_and_a_choice_the_default_is_offered(page, server):
    server.models = []
    page.open().wait_for_text("#model", "Default model")
    assert models(page) == ["Default model"]
