"""What the page survives: reloads, restarts of the server, dead connections, lost answers."""
from __future__ import annotations

from tests.support.page_server import LOST

# The clock of the page goes on by some seconds, and stops there.
LATER = "const later = Date.now() + arguments[0] * 1000; Date.now = () => later;"


def full_queue(retry_after_seconds):
    headers = {"Llm-Tasks": "1", "Retry-After": str(retry_after_seconds)}
    return 503, {"error": "The queue is full."}, headers


def start_writing(page, server, text="Once upon "):
    """Ask, and wait until the beginning of the answer is shown."""
    page.open().ask("Tell me a story.")
    task = server.next_task()
    task.start()
    task.write(text)
    page.wait_for_text(".reply", text.strip())
    return task


def finish(page, task, text="a time.", whole="Once upon a time."):
    task.write(text)
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.wait_for(lambda: page.text(".reply") == whole, whole)


def test_a_reload_in_the_middle_of_an_answer_resumes_the_stream(page, server):
    task = start_writing(page, server)
    page.driver.refresh()
    page.wait_for_text(".reply", "Once upon")
    finish(page, task)
    assert server.stream_requests == [("/result/1/stream", ""), ("/result/1/stream", "10")]
    assert len(server.submissions) == 1


def test_a_reload_while_the_task_is_queued_follows_it_all_the_same(page, server):
    page.open().ask("Tell me a story.")
    task = server.next_task()
    task.wait_in_queue(2)
    page.wait_for_text(".answer .status", "Place 2")
    page.driver.refresh()
    page.wait_for_text(".answer .status", "Place 2")
    task.start()
    finish(page, task, "The end.", "The end.")


def test_a_reload_keeps_the_prompt_that_is_being_written(page, server):
    page.open().find("#prompt").send_keys("Why is")
    page.driver.refresh()
    assert page.find("#prompt").get_attribute("value") == "Why is"


def test_a_lost_connection_is_resumed_where_it_broke_off(page, server):
    task = start_writing(page, server)
    server.hang_up_on_all()
    server.wait_until(lambda: len(server.stream_requests) == 2)
    finish(page, task)
    assert server.stream_requests[1] == ("/result/1/stream", "10")


def test_a_restart_of_the_server_is_survived_and_said(page, server):
    task = start_writing(page, server)
    # Each text is there for a few seconds only.
    page.run("window.said = ''; new MutationObserver(() => {"
             " said += document.querySelector('#connection-text').textContent; })"
             ".observe(document.querySelector('#connection-text'), {childList: true})")
    with server.changed:
        server.is_down = True
        server.changed.notify_all()
    for seconds in (2, 4):
        text = f"Trying again in {seconds} seconds."
        page.wait_for(lambda text=text: text in page.run("return said"), text)
    server.is_down = False
    page.try_now()
    page.wait_until_gone("#connection")
    finish(page, task)


def test_a_task_that_a_restart_lost_is_said_to_be_gone_and_can_be_tried_again(page, server):
    start_writing(page, server)
    server.tasks.clear()
    server.hang_up_on_all()
    page.wait_for_text(".answer .status", "The server no longer has this task.")
    page.click("button[name='Try again']")
    again = server.next_task()
    again.start()
    finish(page, again, "Once upon a time.")


def test_a_task_with_the_number_of_one_that_a_restart_lost_is_not_taken_for_it(page, server):
    lost = start_writing(page, server)
    server.tasks.clear()
    other = server.add_task("Of another tab")
    server.tasks = {lost.task_id: other}
    other.write("Not for you.")
    server.hang_up_on_all()
    page.wait_for_text(".answer .status", "The server no longer has this task.")
    assert "Not for you." not in page.text(".answer")


def test_a_phone_that_slept_reconnects_as_soon_as_it_wakes(page, server):
    """Its connection is dead, but nobody tells it so: it only stays silent."""
    task = start_writing(page, server)
    page.run(LATER + "document.dispatchEvent(new Event('visibilitychange'))", 20)
    server.wait_until(lambda: len(server.stream_requests) == 2)
    finish(page, task)


def test_a_stream_that_stays_silent_is_given_up(page, server):
    task = start_writing(page, server)
    page.run(LATER, 60)
    server.wait_until(lambda: len(server.stream_requests) == 2)
    finish(page, task)


def test_another_network_makes_the_page_reconnect(page, server):
    task = start_writing(page, server)
    page.run("window.dispatchEvent(new Event('online'))")
    server.wait_until(lambda: len(server.stream_requests) == 2)
    finish(page, task)


def test_a_submission_whose_answer_is_lost_counts_once(page, server):
    server.submission_answers.append(LOST)
    page.open().ask("Tell me a story.")
    task = server.next_task()
    server.wait_until(lambda: len(server.submissions) == 2)
    assert server.submission_keys[0] == server.submission_keys[1]
    task.start()
    finish(page, task, "The end.", "The end.")
    assert len(server.tasks) == 1


def test_a_full_queue_is_said_and_the_prompt_sent_again(page, server):
    server.submission_answers.append(full_queue(61))
    page.open().ask("Tell me a story.")
    page.wait_for_text("#connection", "The queue is full. Trying again in 61 seconds.")
    page.try_now()
    task = server.next_task()
    task.start()
    finish(page, task, "The end.", "The end.")
    page.wait_until_gone("#connection")


def test_a_reload_while_the_prompt_is_being_sent_sends_it_once(page, server):
    server.submission_answers.append(full_queue(60))
    page.open().ask("Tell me a story.")
    page.wait_for_text("#connection", "The queue is full.")
    page.driver.refresh()
    server.wait_until(lambda: len(server.submissions) == 2)
    assert server.submission_keys[0] == server.submission_keys[1]
    assert server.submissions[0] == server.submissions[1]


def test_a_prompt_that_is_not_sent_yet_can_be_stopped(page, server):
    server.submission_answers.append(full_queue(60))
    page.open().ask("Tell me a story.")
    page.wait_for_text("#connection", "The queue is full.")
    page.click("#stop")
    page.wait_for_text(".answer .status", "Stopped")
    assert len(server.submissions) == 1


def test_the_answer_of_a_proxy_is_not_taken_for_the_servers(page, server):
    page.open()
    page.wait_for_text("#model", "llama3")
    server.headers.clear()
    page.click("#new-conversation")
    page.find("a[data-view=workers]").click()
    page.wait_for_text("#connection", "Something between this page and the server answered")
    server.headers["Llm-Tasks"] = "1"
    page.try_now()
    page.wait_until_gone("#connection")


def test_another_chat_does_not_disturb_an_answer_that_is_being_written(page, server):
    task = start_writing(page, server)
    page.click("#new-conversation")
    page.wait_until_gone(".turn")
    task.write("a ")
    page.click("[data-task='1'] .open")
    page.wait_for_text(".reply", "Once upon a")
    finish(page, task, "time.")
    assert task.state == "completed"
