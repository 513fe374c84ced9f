"""test.py as a program without a terminal: its output and exit status."""
from __future__ import annotations

import json
import os

import pytest

from test import main
from tests.support.client_stub import QUEUED, event, run


def test_a_pipe_gets_only_the_answer(stub):
    stub.answers.insert(0, (202, QUEUED))
    assert run("Why?", "--model", "m") == (0, "Rayleigh.\n", "")
    assert stub.submissions == [{"prompt": "Why?", "model": "m"}]


def test_a_pipe_never_gets_half_an_answer_that_starts_over(stub):
    stub.streams = [[event(event_id="5", text="Half "), event("attempt", attempt=2)]]
    assert run("Why?") == (0, "Rayleigh.\n", "")
    assert len(stub.streams) == 1


def test_an_outage_is_reported_on_stderr(stub):
    stub.lost = ["/submit"]
    status, output, errors = run("Why?")
    assert (status, output) == (0, "Rayleigh.\n")
    assert errors == (
        f"The Manage Server at {stub.url} is not answering: the connection was closed before the "
        "answer was complete. Did it stop or restart, or is MANAGE_SERVER_URL the port of another "
        "program? Retrying until it answers.\nThe Manage Server is answering again.\n")


def test_further_fields_are_submitted(stub):
    assert run("Why?", "--fields", '{"think": true, "ttl_seconds": 60}')[0] == 0
    assert stub.submissions == [{"prompt": "Why?", "think": True, "ttl_seconds": 60}]


def test_a_dash_reads_the_prompt_from_stdin(stub):
    assert run("-", stdin="two\nlines\n")[0] == 0
    assert stub.submissions == [{"prompt": "two\nlines\n"}]


def test_without_arguments_it_asks_for_prompt_and_model(stub):
    status, output, errors = run(stdin="Why?\nm\n")
    assert (status, output) == (0, "Rayleigh.\n")
    assert errors == "Prompt: Model (empty for the server's default): "
    assert stub.submissions == [{"prompt": "Why?", "model": "m"}]


def test_a_failed_task_exits_1_with_the_reason(stub):
    stub.answers = [(200, {"task_id": 1, "status": "Failed.", "error": "model 'x' not found"})]
    assert run("Why?") == (1, "", "test.py: model 'x' not found\n")


def test_an_unreachable_server_exits_1_with_one_line():
    status, output, errors = run("Why?", "--manage-server-url", "http://127.0.0.1:1")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("test.py: The Manage Server at http://127.0.0.1:1 is not answering: ")


@pytest.mark.parametrize("arguments", [
    ["Why?", "--file", "x"], ["Why?", "--output", "x"], ["--nonsense"],
    ["Why?", "--manage-server-url", "ftp://x"], ["Why?", "--fields", "[]"],
    ["Why?", "--fields", '{"think": NaN}'],
])
def test_wrong_arguments_exit_2_with_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)


def test_a_missing_file_exits_2_with_one_line(capsys):
    path = os.path.join("missing", "prompts.txt")
    assert main(["--file", path]) == 2
    assert capsys.readouterr().err == f"test.py: {path}: No such file or directory\n"


def test_help_names_only_settings_that_the_program_has(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "MANAGE_SERVER_URL=" in shown and "USER_TOKEN" in shown and "LOG_LEVEL" not in shown


def test_characters_that_stdout_cannot_encode_are_printed_as_question_marks(stub):
    stub.answers = [(200, {"task_id": 1, "result": "光 \ud800!"})]
    assert run("Why?", PYTHONIOENCODING="ascii", PYTHONUTF8="0") == (0, "? ?!\n", "")


def test_a_file_without_a_terminal_prints_only_a_summary(stub, tmp_path):
    (tmp_path / "in.txt").write_text("Why?\n")
    output_path = tmp_path / "in.results.jsonl"
    status, output, errors = run("--file", str(tmp_path / "in.txt"))
    assert (status, output) == (0, "")
    assert errors == f"1 of 1 answered, 0 failed. See {output_path}.\n"
    assert json.loads(output_path.read_text())["result"] == "Rayleigh."


def test_model_fields_and_output_apply_to_a_file(stub, tmp_path):
    (tmp_path / "in.txt").write_text("Why?\n")
    assert run("--file", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out"),
               "--model", "m", "--fields", '{"raw": true}')[0] == 0
    assert stub.submissions == [{"prompt": "Why?", "model": "m", "raw": True}]
    assert json.loads((tmp_path / "out").read_text())["result"] == "Rayleigh."
