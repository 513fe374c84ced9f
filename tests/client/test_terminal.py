"""The client on a terminal: what a user sees of an answer that is being written, and Ctrl-C."""
from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.support.client_stub import DONE, QUEUED, SOON_SECONDS, event

ENDED = event("completed", task_id=1, status="Completed.")
RUNNING = (202, {"task_id": 1, "state": "running", "running_seconds": 1.0, "attempt": 1})


def lines(shown):
    """What is on the screen in the end, without what was overwritten and without blank lines."""
    texts = [line.rstrip("\r").rpartition("\r")[2].strip() for line in shown.split("\n")]
    return [text for text in texts if text]


# The answer as it is written


@pytest.mark.parametrize("is_chunked", [True, False])
def test_text_is_shown_as_it_comes(stub, on_terminal, is_chunked):
    go_on = threading.Event()
    stub.is_chunked = is_chunked
    stub.streams = [[event(event_id="3", text="Ray"), go_on, event(event_id="9", text="leigh."),
                     ENDED]]
    program = on_terminal("Why?")
    program.read(until="Ray")
    go_on.set()
    assert lines(program.read()) == ["Rayleigh."]
    assert program.status() == 0


def test_what_is_waited_for_is_shown_until_text_comes(stub, on_terminal):
    go_on = threading.Event()
    stub.answers = [(202, QUEUED), RUNNING]
    stub.streams = [[event("queued", queue_position=3), go_on, event(text="Rayleigh."), ENDED]]
    program = on_terminal("Why?")
    program.read(until="queued, place 3")
    program.read(until="running for 1 s")
    go_on.set()
    assert lines(program.read()) == ["Rayleigh."]


def test_after_a_broken_connection_the_answer_goes_on_where_it_was(stub, on_terminal):
    stub.streams = [
        [event(event_id="3", text="Ray"), event("", "7", text="leigh")[:-1], None],
        [event(event_id="9", text="leigh."), ENDED],
    ]
    program = on_terminal("Why?")
    assert lines(program.read()) == ["Rayleigh."]
    assert stub.last_event_ids == [None, "3"]


def test_a_stream_that_ends_too_early_is_asked_for_again(stub, on_terminal):
    stub.streams = [[event(event_id="3", text="Ray")], [event(event_id="9", text="leigh."), ENDED]]
    assert lines(on_terminal("Why?").read()) == ["Rayleigh."]


def test_a_new_attempt_begins_the_answer_again_on_a_new_line(stub, on_terminal):
    stub.streams = [[event("attempt", attempt=1), event(event_id="4", text="Half"),
                     event("attempt", attempt=2), event(event_id="9@2", text="Rayleigh."), ENDED]]
    assert lines(on_terminal("Why?").read()) == [
        "Half", "The answer starts over, in another attempt:", "Rayleigh."]


def test_thinking_is_shown_dimmed_before_the_answer(stub, on_terminal):
    stub.streams = [[event("thinking", "3", thinking="Hm."), event("", "9", text="Light."), ENDED]]
    assert lines(on_terminal("Why?").read()) == ["\033[2mHm.\033[0m", "Light."]


def test_thinking_is_not_shown_when_stderr_is_no_terminal(stub, on_terminal):
    stub.streams = [[event("thinking", "3", thinking="Hm."), event("", "9", text="Light."), ENDED]]
    program = on_terminal("Why?", names=["stdin", "stdout"])
    assert program.read() == "Light.\r\n"
    assert program.process.stderr.read() == b""


@pytest.mark.parametrize("ending", ["failed", "cancelled", "gone"])
def test_an_answer_that_ends_badly_exits_1_with_the_reason_on_a_line_of_its_own(
    stub, on_terminal, ending
):
    stub.streams = [[event(event_id="4", text="Half"), event(ending, error="It went wrong.")]]
    program = on_terminal("Why?")
    assert lines(program.read()) == ["Half", "test.py: It went wrong."]
    assert program.status() == 1


def test_an_empty_answer_leaves_nothing_of_what_was_waited_for(stub, on_terminal):
    stub.answers = [(202, QUEUED)]
    go_on = threading.Event()
    stub.streams = [[go_on, ENDED]]
    program = on_terminal("Why?")
    program.read(until="queued, place 3")
    go_on.set()
    assert lines(program.read()) == []
    assert program.status() == 0


def test_a_server_without_streams_is_asked_for_the_result(stub, on_terminal):
    stub.answers = [(202, QUEUED), (200, DONE)]
    program = on_terminal("Why?")
    assert lines(program.read()) == ["Rayleigh."]
    assert program.status() == 0


def test_a_task_that_the_server_lost_exits_1(stub, on_terminal):
    stub.without_streams = (404, {"error": "Task not found."})
    program = on_terminal("Why?")
    assert lines(program.read()) == ["test.py: Task not found."]
    assert program.status() == 1


def test_without_stdout_on_it_a_terminal_shows_what_is_waited_for_and_clears_it(stub, on_terminal):
    stub.answers.insert(0, (202, QUEUED))
    program = on_terminal("Why?", names=["stderr"])
    shown = program.read()
    assert program.process.stdout.read() == b"Rayleigh." + os.linesep.encode()
    assert "queued, place 3" in shown and lines(shown) == []


def test_a_terminal_shows_a_bar_for_a_file(stub, on_terminal, tmp_path):
    (tmp_path / "in.txt").write_text("Why?\n")
    shown = on_terminal("--file", str(tmp_path / "in.txt")).read()
    assert "\r[....................] 0 of 1 done, 0 failed" in shown
    assert "1 of 1 answered" in shown


# Ctrl-C


@pytest.fixture
def interrupted(stub, on_terminal):
    """The program, waiting for task 1, once it was sent Ctrl-C."""
    if os.name == "nt":
        pytest.skip("no SIGINT to one process")
    stub.answers = [(202, QUEUED)]
    until_the_end = threading.Event()
    stub.streams = [[event(event_id="4", text="Half"), until_the_end]]

    def start(names=("stdin", "stdout", "stderr"), **environ):
        program = on_terminal("Why?", names=names, **environ)
        assert stub.asked.wait(SOON_SECONDS) if "stdout" not in names else program.read("Half")
        program.process.send_signal(signal.SIGINT)
        return program
    yield start
    until_the_end.set()


@pytest.mark.parametrize("answer", ["\n", "Yes\n"])
def test_ctrl_c_asks_and_cancels(stub, interrupted, answer):
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.type(answer)
    assert lines(program.read())[-1] == "Task 1 is cancelled."
    assert program.status() == 130
    assert stub.deleted == ["/result/1"]


@pytest.mark.parametrize("environ", [{"USER_TOKEN": "s3cret"}, {}])
def test_ctrl_c_asks_and_leaves_the_task_running(stub, interrupted, environ):
    program = interrupted(**environ)
    program.read(until="Cancel the task? [Y/n] ")
    program.type("n\n")
    header = ' -H "Authorization: Bearer $USER_TOKEN"' if environ else ""
    assert lines(program.read())[-2:] == [
        "Task 1 goes on. To get its result later:", f"curl{header} {stub.url}/result/1"]
    assert program.status() == 130
    assert stub.deleted == []


def test_a_second_ctrl_c_leaves_at_once(stub, interrupted):
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.process.send_signal(signal.SIGINT)
    assert "Task 1 goes on." in program.read()
    assert program.status() == 130
    assert stub.deleted == []


def test_ctrl_c_cancels_unasked_when_stdin_is_no_terminal(stub, interrupted):
    program = interrupted(names=["stderr"])
    shown = program.read()
    assert program.status() == 130
    assert "Task 1 is cancelled." in shown and "?" not in shown and "Traceback" not in shown
    assert stub.deleted == ["/result/1"]


def test_ctrl_c_says_that_the_task_goes_on_when_it_cannot_be_cancelled(stub, interrupted):
    stub.lost = ["/result/1"] * 100
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.type("\n")
    shown = program.read()
    assert program.status() == 130
    assert "does not answer" in shown and "Task 1 goes on." in shown
