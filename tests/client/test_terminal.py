"""test.py on a terminal: an answer as it is written, the waiting line, and Ctrl-C."""
from __future__ import annotations

import io
import os
import signal
import threading

import pytest

from client.columns import fit
from client.terminal import Terminal, show_waiting_line
from tests.support.client_stub import DONE, QUEUED, SOON_SECONDS, event

ENDED = event("completed", task_id=1, status="Completed.")
RUNNING = (202, {"task_id": 1, "state": "running", "running_seconds": 1.0, "attempt": 1})


def lines(shown):
    """Return the lines that stay on the screen, without blank ones."""
    texts = [line.rstrip("\r").rpartition("\r")[2].strip() for line in shown.split("\n")]
    return [text for text in texts if text]


# The waiting line


def test_the_waiting_line_is_shown_until_text_comes(stub, on_terminal):
    go_on = threading.Event()
    stub.answers = [(202, QUEUED), RUNNING]
    stub.streams = [[event("queued", queue_position=3), go_on, event(text="Rayleigh."), ENDED]]
    program = on_terminal("Why?")
    program.read(until="queued at position 3")
    program.read(until="running for 1 s")
    go_on.set()
    assert lines(program.read()) == ["Rayleigh."]


def test_an_empty_answer_clears_the_waiting_line(stub, on_terminal):
    stub.answers = [(202, QUEUED)]
    go_on = threading.Event()
    stub.streams = [[go_on, ENDED]]
    program = on_terminal("Why?")
    program.read(until="queued at position 3")
    go_on.set()
    assert lines(program.read()) == []
    assert program.wait() == 0


def test_stderr_alone_on_a_terminal_shows_the_waiting_line_and_clears_it(stub, on_terminal):
    stub.answers.insert(0, (202, QUEUED))
    program = on_terminal("Why?", names=["stderr"])
    shown = program.read()
    assert program.process.stdout.read() == b"Rayleigh." + os.linesep.encode()
    assert "queued at position 3" in shown and lines(shown) == []


def test_a_file_shows_a_progress_bar(stub, on_terminal, tmp_path):
    (tmp_path / "in.txt").write_text("Why?\n")
    shown = on_terminal("--file", str(tmp_path / "in.txt")).read()
    assert "\r0 of 1 done, 0 failed [....................]" in shown
    assert "1 of 1 answered" in shown


@pytest.mark.parametrize("columns", [20, 2, 1, 0])
def test_the_waiting_line_fits_into_any_window(stub, on_terminal, columns):
    go_on = threading.Event()
    stub.answers = [(202, {**QUEUED, "queue_position": 3, "eta_seconds": 7200.0}), (200, DONE)]
    stub.streams = [[go_on, event(text="Rayleigh."), ENDED]]
    program = on_terminal("Why?", columns=columns)
    assert stub.got_a_get.wait(SOON_SECONDS)
    go_on.set()
    shown = program.read()
    width = (columns or 80) - 1
    assert all(len(line) <= width for line in shown.replace("\n", "\r").split("\r")
               if "queued" in line)
    assert lines(shown) == ["Rayleigh."]


def test_wide_characters_count_twice():
    assert fit("光光光", 5) == ("光光", 4)
    assert fit("e\u0301" * 3, 3) == ("e\u0301" * 3, 3)


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def test_what_another_program_prints_replaces_the_waiting_line(monkeypatch):
    """A log line on the same terminal must not stick to the end of the waiting line."""
    monkeypatch.setenv("TERM", "xterm")
    err = FakeTerminal()
    Terminal(io.StringIO(), err).show_status("queued")
    assert err.getvalue() == "\rqueued" + 73 * " " + "\r"


@pytest.mark.parametrize(("state", "said"), [
    ({"state": "running", "attempt": 1, "lease_expires_seconds": 9.0, "worker_seen_seconds": 21.0},
     "Lost contact with the worker, last seen 21 s ago; its lease ends in 9 s, then another "
     "attempt begins."),
    ({"state": "queued", "attempt": 1, "waiting_for": "a worker", "worker_seen_seconds": 60.0,
      "error": "Lost contact with worker gpu-1."},
     "Waiting for a worker (last seen 60 s ago); attempt 1 failed: Lost contact with worker "
     "gpu-1."),
    ({"state": "running", "attempt": 2, "lease_expires_seconds": 29.0}, ""),
])
def test_an_answer_that_is_interrupted_is_said_to_be(monkeypatch, state, said):
    monkeypatch.setattr("client.terminal.SILENT_ANSWER_SECONDS", 0)
    monkeypatch.setattr("client.terminal.REFRESH_SECONDS", 0)
    screen, asked = FakeTerminal(), threading.Semaphore(0)

    def get_state():
        asked.release()
        return state

    terminal = Terminal(screen, screen)
    terminal.write_answer("Light is")
    with show_waiting_line(terminal, get_state):
        for _ in range(3):
            assert asked.acquire(timeout=SOON_SECONDS)
    terminal.end_line()
    terminal.show_status()
    assert [line.strip() for line in lines(screen.getvalue())] == list(
        filter(None, ["Light is", said]))


def test_an_answer_that_was_just_written_is_not_asked_about():
    screen = FakeTerminal()
    terminal = Terminal(screen, screen)
    terminal.write_answer("Light is")
    terminal.show_waiting({"state": "running"})
    assert terminal.is_answer_flowing and screen.getvalue().endswith("Light is")


def test_a_dumb_terminal_gets_lines_and_no_escape_sequences(stub, on_terminal):
    waiting = {**QUEUED, "waiting_for": "a worker with model m", "worker_seen_seconds": None}
    stub.answers = [(202, waiting), (202, waiting)]
    go_on = threading.Event()
    stub.streams = [[go_on, event("thinking", "3", thinking="Hm."), event("", "9", text="Light."),
                     ENDED]]
    program = on_terminal("Why?", TERM="dumb")
    program.read(until="Waiting for a worker")
    go_on.set()
    shown = program.read()
    assert "\033" not in shown and "\r" not in shown.replace("\r\n", "")
    assert lines(shown) == ["Waiting for a worker with model m (no connected worker has it).",
                            "(thinking) Hm.", "Light."]


def test_no_color_is_obeyed(stub, on_terminal):
    stub.streams = [[event("thinking", "3", thinking="Hm."), event("", "9", text="Light."), ENDED]]
    shown = on_terminal("Why?", NO_COLOR="1").read()
    assert lines(shown) == ["(thinking) Hm.", "Light."] and "\033" not in shown


def test_nothing_from_outside_commands_the_terminal(stub, on_terminal):
    evil = "\033]52;c;aGk=\007\x9b2J\r"
    stub.answers = [(202, {**QUEUED, "waiting_for": f"a worker with model {evil}"})]
    go_on = threading.Event()
    stub.streams = [[go_on, event("thinking", "3", thinking=evil), event("", "9", text=evil),
                     event("failed", error=evil)]]
    program = on_terminal("Why?", NO_COLOR="1")
    program.read(until="a worker with model")
    go_on.set()
    shown = program.read()
    assert "\033" not in shown and "\x9b" not in shown and "\007" not in shown
    assert shown.count(r"\x1b]52;c;aGk=\x07\x9b2J") >= 4


# The answer as it is written


@pytest.mark.parametrize("is_chunked", [True, False])
def test_text_is_shown_as_it_arrives(stub, on_terminal, is_chunked):
    go_on = threading.Event()
    stub.is_chunked = is_chunked
    stub.streams = [[event(event_id="3", text="Ray"), go_on, event(event_id="9", text="leigh."),
                     ENDED]]
    program = on_terminal("Why?")
    program.read(until="Ray")
    go_on.set()
    assert lines(program.read()) == ["Rayleigh."]
    assert program.wait() == 0


def test_an_answer_resumes_after_a_broken_connection(stub, on_terminal):
    stub.streams = [
        [event(event_id="3", text="Ray"), event("", "7", text="leigh")[:-1], None],
        [event(event_id="9", text="leigh."), ENDED],
    ]
    program = on_terminal("Why?")
    assert lines(program.read()) == ["Rayleigh."]
    assert stub.last_event_ids == [None, "3"]


def test_a_stream_that_ends_early_is_resumed(stub, on_terminal):
    stub.streams = [[event(event_id="3", text="Ray")], [event(event_id="9", text="leigh."), ENDED]]
    assert lines(on_terminal("Why?").read()) == ["Rayleigh."]


def test_a_new_attempt_starts_the_answer_over_on_a_new_line(stub, on_terminal):
    stub.streams = [[event("attempt", attempt=1), event(event_id="4", text="Half"),
                     event("attempt", attempt=2), event(event_id="9@2", text="Rayleigh."), ENDED]]
    assert lines(on_terminal("Why?").read()) == [
        "Half", "The answer starts over in a new attempt:", "Rayleigh."]


def test_thinking_is_shown_dimmed_before_the_answer(stub, on_terminal):
    stub.streams = [[event("thinking", "3", thinking="Hm."), event("", "9", text="Light."), ENDED]]
    assert lines(on_terminal("Why?").read()) == ["\033[2mHm.\033[0m", "Light."]


def test_thinking_is_hidden_when_stderr_is_not_a_terminal(stub, on_terminal):
    stub.streams = [[event("thinking", "3", thinking="Hm."), event("", "9", text="Light."), ENDED]]
    program = on_terminal("Why?", names=["stdin", "stdout"])
    assert program.read() == "Light.\r\n"
    assert program.process.stderr.read() == b""


@pytest.mark.parametrize("ending", ["failed", "cancelled", "gone"])
def test_a_task_that_ends_without_a_result_exits_1_with_the_reason_on_its_own_line(
    stub, on_terminal, ending
):
    stub.streams = [[event(event_id="4", text="Half"), event(ending, error="It went wrong.")]]
    program = on_terminal("Why?")
    assert lines(program.read()) == ["Half", "test.py: It went wrong."]
    assert program.wait() == 1


def test_a_server_without_streams_is_asked_for_the_result(stub, on_terminal):
    stub.answers = [(202, QUEUED), (200, DONE)]
    program = on_terminal("Why?")
    assert lines(program.read()) == ["Rayleigh."]
    assert program.wait() == 0


def test_a_task_unknown_to_the_server_exits_1(stub, on_terminal):
    stub.no_stream_answer = (404, {"error": "Task not found."})
    program = on_terminal("Why?")
    assert lines(program.read()) == ["test.py: Task not found."]
    assert program.wait() == 1


# Ctrl-C


@pytest.fixture
def interrupted(stub, on_terminal):
    """Starts test.py and sends it Ctrl-C while it waits for task 1."""
    if os.name == "nt":
        pytest.skip("Windows cannot send SIGINT to a single process")
    stub.answers = [(202, QUEUED)]
    test_is_over = threading.Event()
    stub.streams = [[event(event_id="4", text="Half"), test_is_over]]

    def start(names=("stdin", "stdout", "stderr"), **environ):
        program = on_terminal("Why?", names=names, **environ)
        if "stdout" in names:
            program.read(until="Half")
        else:
            assert stub.got_a_get.wait(SOON_SECONDS)
        program.process.send_signal(signal.SIGINT)
        return program
    yield start
    test_is_over.set()


@pytest.mark.parametrize("answer", ["\n", "Yes\n"])
def test_ctrl_c_asks_and_cancels(stub, interrupted, answer):
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.type(answer)
    assert lines(program.read())[-1] == "Cancelled task 1."
    assert program.wait() == 130
    assert stub.deleted == ["/result/1"]


def test_ctrl_c_asks_again_until_the_answer_is_yes_or_no(stub, interrupted):
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.type("maybe\n")
    program.read(until="maybe\r\nCancel the task? [Y/n] ")
    program.type("no\n")
    assert "Task 1 was not cancelled." in program.read()
    assert stub.deleted == []


@pytest.mark.parametrize("environ", [{"USER_TOKEN": "s3cret"}, {}])
def test_ctrl_c_asks_and_leaves_the_task_alone(stub, interrupted, environ):
    program = interrupted(**environ)
    program.read(until="Cancel the task? [Y/n] ")
    program.type("n\n")
    header = ' -H "Authorization: Bearer $USER_TOKEN"' if environ else ""
    assert lines(program.read())[-2:] == [
        "Task 1 was not cancelled. To get its result later:", f"curl{header} {stub.url}/result/1"]
    assert program.wait() == 130
    assert stub.deleted == []


def test_a_second_ctrl_c_exits_without_cancelling(stub, interrupted):
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.process.send_signal(signal.SIGINT)
    assert "Task 1 was not cancelled." in program.read()
    assert program.wait() == 130
    assert stub.deleted == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_during_the_question_cancels_the_task(stub, interrupted, name):
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.process.send_signal(getattr(signal, name))
    assert program.wait() == 128 + getattr(signal, name)
    assert lines(program.read())[-1] == "Cancelled task 1."
    assert stub.deleted == ["/result/1"]


def test_the_end_of_the_terminal_cancels_the_task(stub, on_terminal):
    stub.answers = [(202, QUEUED)]
    test_is_over = threading.Event()
    stub.streams = [[event(event_id="4", text="Half"), test_is_over]]
    program = on_terminal("Why?")
    program.read(until="Half")
    program.hang_up()
    program.process.send_signal(signal.SIGHUP)
    assert program.wait() == 128 + signal.SIGHUP
    test_is_over.set()
    assert stub.deleted == ["/result/1"]


# Questions


@pytest.mark.parametrize(("names", "is_asked"), [
    (("stdin", "stdout", "stderr"), True), (("stdin", "stderr"), True), (("stdin", "stdout"), True),
    (("stdout", "stderr"), False), (("stderr",), False),
])
def test_it_asks_only_somebody_who_can_read_and_answer(stub, on_terminal, names, is_asked):
    program = on_terminal(names=names)
    if "stdin" in names:
        program.type("Why?\nm\n")
    shown = program.read()
    assert ("Prompt: " in shown) == ("Model (" in shown) == is_asked
    assert stub.submissions == [{"prompt": "Why?", "model": "m"} if "stdin" in names
                                else {"prompt": ""}]


def test_without_a_prompt_it_asks_for_no_model(stub, on_terminal):
    program = on_terminal()
    program.type("\n")
    assert "Model (" not in program.read()
    assert stub.submissions == [{"prompt": ""}]


def test_ctrl_c_cancels_without_asking_when_stdin_is_not_a_terminal(stub, interrupted):
    program = interrupted(names=["stderr"])
    shown = program.read()
    assert program.wait() == 130
    assert "Cancelled task 1." in shown and "?" not in shown and "Traceback" not in shown
    assert stub.deleted == ["/result/1"]


def test_ctrl_c_says_so_when_the_task_could_not_be_cancelled(stub, interrupted):
    stub.lost = ["/result/1"] * 100
    program = interrupted()
    program.read(until="Cancel the task? [Y/n] ")
    program.type("\n")
    shown = program.read()
    assert program.wait() == 130
    assert "is not answering" in shown and "Task 1 was not cancelled." in shown
