"""The client as a program without a terminal: what comes out of it, and with which exit status."""
from __future__ import annotations

import pytest

from client import manage_client as client
from tests.support.client_stub import QUEUED, event, run


def test_a_pipe_gets_nothing_but_the_answer(stub):
    stub.answers.insert(0, (202, QUEUED))
    assert run("Why?", "--model", "m") == (0, "Rayleigh.\n", "")
    assert stub.submissions == [{"prompt": "Why?", "model": "m"}]


def test_a_pipe_never_gets_the_half_of_an_answer_that_starts_over(stub):
    stub.streams = [[event(event_id="5", text="Half "), event("attempt", attempt=2)]]
    assert run("Why?") == (0, "Rayleigh.\n", "")
    assert len(stub.streams) == 1


def test_a_submission_whose_answer_is_lost_is_one_task(stub):
    stub.lost = ["/submit"]
    status, output, errors = run("Why?")
    assert (status, output) == (0, "Rayleigh.\n")
    assert len({headers["Idempotency-Key"] for headers in stub.headers[:2]}) == 1
    assert "Trying again until it answers" in errors


def test_further_fields_are_submitted(stub):
    assert run("Why?", "--fields", '{"think": true, "ttl_seconds": 60}')[0] == 0
    assert stub.submissions == [{"prompt": "Why?", "think": True, "ttl_seconds": 60}]


def test_a_dash_reads_the_prompt_from_stdin(stub):
    assert run("-", stdin="two\nlines\n")[0] == 0
    assert stub.submissions == [{"prompt": "two\nlines\n"}]


def test_without_arguments_it_asks(stub):
    status, output, errors = run(stdin="Why?\nm\n")
    assert (status, output) == (0, "Rayleigh.\n")
    assert errors == "Prompt: Model (empty for the server's default): "
    assert stub.submissions == [{"prompt": "Why?", "model": "m"}]


def test_a_failed_task_exits_1_with_the_reason(stub):
    stub.answers = [(200, {"task_id": 1, "status": "Failed.", "error": "model 'x' not found"})]
    assert run("Why?") == (1, "", "test.py: model 'x' not found\n")


def test_a_cancelled_task_exits_1_with_the_reason(stub):
    stub.answers = [(200, {"task_id": 1, "status": "Cancelled.", "error": "It was cancelled."})]
    assert run("Why?") == (1, "", "test.py: It was cancelled.\n")


def test_who_is_not_let_in_is_told_what_sets_the_token_and_exits_1(stub):
    stub.answers = [(401, {"error": "A user token is needed."})]
    assert run("Why?", USER_TOKEN="wrong") == (
        1, "", "test.py: A user token is needed. USER_TOKEN sets the token.\n")
    assert stub.headers[0]["Authorization"] == "Bearer wrong"


def test_an_unreachable_server_exits_1_with_what_to_do():
    status, output, errors = run("Why?", "--manage-server-url", "http://127.0.0.1:1")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert "is `python manage_server.py` running?" in errors


@pytest.mark.parametrize("arguments", [
    ["Why?", "--file", "x"], ["Why?", "--output", "x"], ["--nonsense"], ["--file", "/missing/x"],
    ["Why?", "--manage-server-url", "ftp://x"], ["Why?", "--fields", "[]"],
    ["Why?", "--fields", '{"think": NaN}'],
])
def test_bad_usage_exits_2_with_one_line(arguments, capsys):
    try:
        status = client.main(arguments)
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr()
    assert (status, shown.out, shown.err.count("\n")) == (2, "", 1)


def test_an_answer_that_stdout_cannot_hold_is_printed_with_question_marks(stub):
    stub.answers = [(200, {"task_id": 1, "result": "光 \ud800!"})]
    assert run("Why?", PYTHONIOENCODING="ascii", PYTHONUTF8="0") == (0, "? ?!\n", "")


def test_a_file_shows_no_bar_without_a_terminal(stub, tmp_path):
    (tmp_path / "in.txt").write_text("Why?\n")
    status, output, errors = run("--file", str(tmp_path / "in.txt"))
    assert (status, output) == (0, "")
    assert errors.startswith("1 of 1 answered, 0 failed") and errors.count("\n") == 1
