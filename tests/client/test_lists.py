"""test.py --list, --cancel and --result."""
from __future__ import annotations

import pytest

from client.columns import count_columns
from client.task_table import format_tasks
from tests.support.client_stub import DONE, QUEUED, run

AT = "2026-11-28T22:30:00Z"
AT_SECONDS = 1_795_905_000.0
TASK = {
    "task_id": 7, "state": "completed", "model": "llama3", "summary": "Why is the sky blue?",
    "result_start": "Rayleigh.", "error": None, "queue_position": None, "waiting_for": None,
    "submitted_at": AT,
}


def table(*tasks, columns=80, ago=300.0):
    return list(format_tasks(list(tasks), columns, lambda: AT_SECONDS + ago))


def test_a_list_is_a_table(stub):
    queued = {**TASK, "task_id": 12, "state": "queued", "queue_position": 3,
              "result_start": None, "waiting_for": "its turn"}
    assert table(queued, TASK) == [
        "ID  STATE      AGE    MODEL   PROMPT                ANSWER",
        "12  queued #3  5 min  llama3  Why is the sky blue?  waiting for its turn",
        "7   completed  5 min  llama3  Why is the sky blue?  Rayleigh."]


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("text", ["word " * 100, "\U0001f600" * 200, "\u65e5\u672c" * 100])
def test_a_table_is_never_wider_than_the_terminal(columns, text):
    lines = table({**TASK, "summary": text, "result_start": text, "model": "m" * 150},
                  columns=columns)
    assert all(count_columns(line) <= columns for line in lines)


@pytest.mark.parametrize("columns", [20, 30, 50, 80, 120])
def test_a_text_that_is_cut_says_so(columns):
    (line,) = table({**TASK, "summary": "word " * 100, "result_start": "text " * 100},
                    columns=columns)[1:]
    assert line.endswith("\u2026") and count_columns(line) <= columns
    assert line.count("\u2026") == (2 if "text" in line else 1)


def test_a_long_error_is_cut_where_the_prompt_is_short():
    for columns in range(50, 200):
        (line,) = table({**TASK, "result_start": "text " * 100}, columns=columns)[1:]
        assert line.endswith("\u2026") and columns - 2 <= count_columns(line) <= columns


@pytest.mark.parametrize("columns, headings", [
    (8, "ID PROMPT"), (20, "ID PROMPT"), (30, "ID STATE PROMPT"), (40, "ID STATE PROMPT ANSWER"),
    (50, "ID STATE MODEL PROMPT ANSWER"), (60, "ID STATE AGE MODEL PROMPT ANSWER")])
def test_a_narrow_table_has_the_columns_that_matter_most(columns, headings):
    queued = {**TASK, "task_id": 12, "state": "queued", "queue_position": 3}
    first, *lines = table(queued, TASK, columns=columns)
    assert first.split() == headings.split() or columns < 10
    assert all("W" in line for line in lines)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_table_fits_whatever_the_encoding_of_the_terminal_is(encoding):
    task = {**TASK, "summary": "\u65e5\u672c\u00e9" * 50, "result_start": "\U0001f600" * 50}
    for columns in (20, 50, 80):
        for line in format_tasks([task], columns, lambda: AT_SECONDS, encoding):
            assert len(line.encode(encoding)) <= columns


def test_a_prompt_without_text_is_named():
    assert "/api/embed" in table({**TASK, "summary": "", "path": "/api/embed"})[1]
    assert "(no text)" in table({**TASK, "summary": ""})[1]


def test_texts_of_strangers_are_one_line_and_command_no_terminal():
    task = {**TASK, "summary": "a\nb\x1b[2J", "model": "m\x07", "result_start": "\x9b"}
    (line,) = table(task)[1:]
    assert line.isprintable() and "a b\\x1b[2J" in line


@pytest.mark.parametrize("task", [
    {}, {"task_id": None, "state": 5, "submitted_at": 7, "summary": ["x"]},
    {**TASK, "submitted_at": "yesterday"}, {**TASK, "queue_position": "x", "state": "queued"},
])
def test_a_list_of_another_server_breaks_nothing(task):
    assert len(table(task)) == 2


def test_a_failed_task_shows_its_error():
    for written in (None, "Half an answer"):
        (line,) = table({**TASK, "state": "failed", "result_start": written,
                         "error": "It broke."})[1:]
        assert line.endswith("It broke.")


def test_the_program_lists_tasks(stub):
    stub.answers = [(200, {"tasks": [TASK], "more": True})]
    status, output, errors = run("--list")
    assert (status, errors) == (0, "These are the newest 1 tasks.\n")
    assert [line.split()[0] for line in output.splitlines()] == ["ID", "7"]
    assert stub.submissions == []


def test_a_list_on_a_terminal_fits_it(stub, on_terminal):
    stub.answers = [(200, {"tasks": [{**TASK, "summary": "word " * 50}], "more": False})]
    program = on_terminal("--list", columns=50)
    lines = program.read().splitlines()
    assert program.wait() == 0
    assert len(lines) == 2 and max(map(len, lines)) <= 50


def test_a_list_fits_a_terminal_without_utf_8(stub, on_terminal):
    stub.answers = [(200, {"tasks": [{**TASK, "summary": "\u00fc\u65e5" * 50}], "more": False})]
    program = on_terminal("--list", columns=80, PYTHONIOENCODING="ascii")
    lines = program.read().splitlines()
    assert program.wait() == 0
    assert len(lines) == 2 and max(map(len, lines)) <= 80
    assert "\\xfc\\u65e5" in lines[1] and "..." in lines[1]


def test_the_program_prints_the_result_of_a_task(stub):
    stub.answers = [(202, QUEUED), (200, DONE)]
    assert run("--result", "1") == (0, "Rayleigh.\n", "")
    assert stub.submissions == []


def test_a_result_that_nobody_will_have_is_an_error(stub):
    stub.answers = [(200, {"task_id": 1, "status": "Failed.", "error": "It broke."})]
    assert run("--result", "1") == (1, "", "test.py: It broke.\n")


def test_the_program_cancels_a_task(stub):
    stub.answers = [(202, QUEUED)]
    assert run("--cancel", "1") == (0, "", "Cancelled task 1.\n")
    assert (stub.deleted, stub.deletions_only) == (["/result/1"], ["only=cancel"])


ENDED = (409, {"error": "The task has already completed, so it is not cancelled."})


def test_a_task_that_ends_while_it_is_being_cancelled_stays(stub):
    stub.answers = [(202, QUEUED), (200, DONE)]
    stub.deletion_answer = ENDED
    assert run("--cancel", "1") == (1, "", "test.py: Task 1 has already ended: completed\n")


@pytest.mark.parametrize("status, body, sentence", [
    (200, DONE, "Task 1 has already ended: completed"),
    (200, {"task_id": 1, "status": "Failed.", "error": "It broke."},
     "Task 1 has already ended: It broke."),
    (404, {"error": "Task not found."}, "Task not found."),
])
def test_a_task_that_has_ended_is_not_erased(stub, status, body, sentence):
    stub.answers = [(status, body)]
    assert run("--cancel", "1") == (1, "", f"test.py: {sentence}\n")
    assert stub.deleted == []


@pytest.mark.parametrize("arguments", [
    ["--list", "Why?"], ["--cancel", "1", "--result", "1"], ["--file", "x", "--list"],
    ["--list", "--model", "llama3"], ["--result", "1", "--model", "x"],
    ["--cancel", "1", "--fields", '{"think": true}'],
    ["--cancel", "0"], ["--cancel", "x"], ["--result", "-1"], ["--result", "9" * 30],
])
def test_arguments_that_make_no_sense_are_refused(stub, arguments):
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "") and errors.count("\n") == 1
    assert stub.submissions == stub.deleted == []


def test_the_result_of_a_relayed_task_is_printed_on_a_terminal(stub, on_terminal):
    stub.no_stream_answer = (409, {"error": "It has no such stream."})
    program = on_terminal("--result", "1")
    assert "Rayleigh." in program.read()
    assert program.wait() == 0
