"""A file of prompts: a few in flight at a time, and runs that continue an earlier one."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import requests

from client import batch
from client.batch_files import FileError
from client.errors import TaskError
from tests.support.fake_manage_server import FakeManageServer, RecordingTerminal


@pytest.fixture
def server(web):
    return FakeManageServer(web)


@pytest.fixture
def terminal():
    return RecordingTerminal()


@pytest.fixture
def run(manage_client, terminal, tmp_path, monkeypatch):
    """Runs a file of prompts; returns the exit status and the records of the output."""
    monkeypatch.chdir(tmp_path)

    def run(text, name="in.txt", output="in.results.jsonl", **defaults):
        Path(name).write_text(text, encoding="utf-8")
        status = batch.run(manage_client, terminal, name, output, defaults)
        return status, [json.loads(line) for line in read_output(output)]
    return run


def read_output(path="in.results.jsonl"):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return list(file)


def failing(*bad):
    return lambda prompt: {"error": "No."} if prompt in bad else {"result": "echo " + prompt}


def test_answers_are_json_lines_in_the_order_of_the_input(server, run):
    status, records = run("one\n\n  two ü\nthree", model="m")
    assert status == 0
    assert records == [
        {"line": line, "task_id": task_id, "prompt": prompt, "model": "m",
         "result": "echo " + prompt}
        for line, task_id, prompt in [(1, 1, "one"), (3, 2, "two ü"), (4, 3, "three")]
    ]


def test_a_failed_task_is_recorded_with_its_error_and_the_exit_status_is_1(server, run):
    server.answer = failing("two")
    status, records = run("one\ntwo\nthree\n")
    assert status == 1
    assert [record.get("error") for record in records] == [None, "No.", None]


def test_a_jsonl_line_may_set_any_field_of_a_submission(server, run):
    line = {"prompt": "one", "model": "own", "options": {"seed": 1}, "ttl_seconds": 60,
            "timeout_seconds": 5}
    run(json.dumps(line) + '\n{"prompt": "two"}\n', name="in.jsonl", model="m")
    assert server.submissions == [line, {"prompt": "two", "model": "m"}]


def test_the_fields_of_a_line_override_the_defaults(server, run):
    lines = '{"prompt": "one", "ttl_seconds": 5}\n{"prompt": "two"}\n'
    status, records = run(lines, name="in.jsonl", ttl_seconds=60, raw=True)
    assert [body["ttl_seconds"] for body in server.submissions] == [5, 60]
    assert status == 0 and records[1]["raw"] is True


@pytest.mark.parametrize("bad", [
    "{", "[]", "3", "{}", '{"prompt": " "}', '{"prompt": 1}', '{"prompt": "x", "line": 1}',
    '{"prompt": "x", "options": {"seed": NaN}}',
])
def test_an_invalid_line_is_named_before_anything_is_submitted(server, run, bad):
    with pytest.raises(FileError, match=r"^in\.jsonl, line 3: must be"):
        run('{"prompt": "x"}\n\n' + bad + "\n", name="in.jsonl")
    assert (read_output(), server.submissions) == ([], [])


def test_an_input_that_is_not_utf_8_is_refused(server, run, manage_client, terminal):
    Path("latin1.txt").write_bytes(b"\xfcber\n")
    with pytest.raises(FileError, match=r"^latin1\.txt is not UTF-8 text\.$"):
        batch.run(manage_client, terminal, "latin1.txt", "out", {})


def test_a_prompt_that_the_server_refuses_fails_alone(server, run):
    server.outages = [(400, {"error": "Unknown field: colour."})]
    status, records = run("one\ntwo\n")
    assert (status, records[0]["error"]) == (1, "Unknown field: colour.")
    assert records[1]["result"] == "echo two"


@pytest.mark.parametrize("refusal", [
    (413, "<html>"), (413, {"error": "Too long."}), (422, {"error": "Unknown."}),
])
def test_a_refused_prompt_is_not_said_to_pass_if_the_command_is_run_again(
    server, run, terminal, refusal
):
    server.outages = [refusal]
    status, records = run("one\ntwo\n")
    assert (status, "error" in records[0], records[1]["result"]) == (1, True, "echo two")
    assert terminal.messages == ["1 of 2 answered, 1 failed. See in.results.jsonl. 1 of them was "
                                 "refused and must be changed first."]


def test_a_failed_task_may_pass_if_the_command_is_run_again(server, run, terminal):
    server.answer = failing("two")
    server.outages = [(400, {"error": "Unknown field."})]
    run("one\ntwo\nthree\n")
    assert terminal.messages[-1].endswith(
        "1 of them was refused and must be changed first. Run the same command again for the rest.")


def test_an_answer_of_something_in_between_does_not_fail_a_prompt(server, run):
    def answer(prompt):
        if prompt == "one" and not server.outages and server.most_in_flight == 2:
            server.outages = [(403, "Blocked"), (404, '{"error": "x"}')]
            server.most_in_flight = 99
        return {"result": "echo " + prompt}
    server.answer = answer
    assert run("one\ntwo\n")[0] == 0


def test_what_the_tasks_wait_for_is_said(server, run, terminal):
    server.answer = lambda prompt: {"result": "x"} if terminal.waits else None
    run("one\n")
    assert terminal.waits[0]["status"] == "Processing..."


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this platform has no /dev/full")
def test_a_full_disk_ends_the_run_cancels_the_rest_and_keeps_what_is_written(
    server, run, terminal, tmp_path
):
    server.answer = lambda prompt: {"result": "x"} if prompt == "one" else None
    (tmp_path / "out").symlink_to("/dev/full")
    with pytest.raises(FileError, match=r"^out: No space left on device$"):
        run("one\ntwo\nthree\n", output="out")
    assert server.cancelled == [2, 3]
    assert terminal.messages == ["0 of 3 answered, 0 failed. See out. Run the same command again "
                                 "for the rest."]
    assert os.path.islink("out") and not os.path.isfile("/dev/full")


def test_a_refusal_that_concerns_every_prompt_stops_the_run(server, run):
    server.outages = [(401, {"error": "A user token is needed."})]
    with pytest.raises(TaskError, match=r"^A user token is needed\."):
        run("one\ntwo\n")
    assert read_output() == []


def test_only_a_few_tasks_are_in_flight_at_once(server, run):
    run("".join(f"{number}\n" for number in range(200)))
    assert 1 < server.most_in_flight <= 100
    assert len(server.submissions) == 200


def test_a_run_survives_an_outage(server, run):
    def answer(prompt):
        if prompt == "one":
            server.outages = [requests.ConnectionError()] * 30
        return {"result": "echo " + prompt}
    server.answer = answer
    status, records = run("one\ntwo\n")
    assert status == 0 and len(records) == 2


def test_while_the_first_task_takes_long_the_others_are_counted(server, run, terminal):
    def answer(prompt):
        are_counted = any("2 of 3 done" in text for text in terminal.statuses)
        return {"result": "x"} if prompt != "1" or are_counted else None
    server.answer = answer
    assert run("1\n2\n3\n")[0] == 0


def test_an_answer_is_written_once_all_before_it_are_finished(server, run, terminal):
    outputs = []
    terminal.on_status = lambda: outputs.append(
        [json.loads(line)["line"] for line in read_output()])
    server.answer = lambda prompt: None if prompt == "2" and len(outputs) < 6 else {"result": "x"}
    run("1\n2\n3\n")
    assert [1] in outputs and [1, 3] not in outputs
    assert [json.loads(line)["line"] for line in read_output()] == [1, 2, 3]


def test_a_task_that_the_server_lost_fails_alone(server, run):
    def answer(prompt):
        server.forget(2)
        return {"result": "echo " + prompt}
    server.answer = answer
    records = run("one\ntwo\nthree\n")[1]
    assert [record.get("error") for record in records] == [None, "Task not found.", None]


def test_ids_reused_by_a_restarted_server_do_not_mix_up_answers(server, run):
    server.restarts_after = 20
    records = run("".join(f"{number}\n" for number in range(100)))[1]
    answers = [record["result"] for record in records if "result" in record]
    assert answers == [f"echo {number}" for number in range(20, 100)]


def test_a_second_run_submits_only_prompts_without_an_answer(server, run, terminal):
    run("one\ntwo\n")
    status, records = run("one\ntwo\nthree\n")
    assert (status, len(records)) == (0, 3)
    assert [body["prompt"] for body in server.submissions] == ["one", "two", "three"]
    assert "in.results.jsonl already has 2 of 3 answers." in terminal.messages


def test_a_second_run_retries_failed_prompts_and_keeps_the_order(server, run):
    server.answer = failing("two")
    run("one\ntwo\nthree\n")
    server.answer = failing()
    status, records = run("one\ntwo\nthree\n")
    assert status == 0
    assert [record["result"] for record in records] == ["echo one", "echo two", "echo three"]
    assert len(server.submissions) == 4


@pytest.mark.parametrize("missing_bytes", [1, 5, 40])
def test_an_incomplete_last_record_is_cut_off_and_its_prompt_retried(server, run, missing_bytes):
    run("one\ntwo ü\n")
    output = Path("in.results.jsonl")
    output.write_bytes(output.read_bytes()[:-missing_bytes])
    status, records = run("one\ntwo ü\n")
    assert (status, len(server.submissions)) == (0, 3)
    assert [record["result"] for record in records] == ["echo one", "echo two ü"]


@pytest.mark.parametrize(("text", "defaults"), [
    ("one\nother\n", {}), ("one\ntwo\n", {"model": "m"}), ("one\n", {}),
])
def test_the_output_of_another_input_is_left_alone(server, run, text, defaults):
    run("one\ntwo\n")
    before = read_output()
    with pytest.raises(FileError, match="Choose another --output, or delete the file"):
        run(text, **defaults)
    assert read_output() == before and len(server.submissions) == 2


@pytest.mark.parametrize("text", ["one\ntwo\n", "one", '{"prompt": "one"}'])
def test_the_input_is_not_overwritten_as_the_output(server, run, text):
    with pytest.raises(FileError):
        run(text, output="in.txt")
    assert Path("in.txt").read_text() == text


def test_unusual_characters_survive_a_second_run(server, run):
    line = '{"prompt": "\\ud800 \u2028 \U0001f600"}\n'
    run(line, name="in.jsonl")
    status, records = run(line, name="in.jsonl")
    assert (status, len(server.submissions)) == (0, 1)
    assert records[0]["result"] == "echo \ud800 \u2028 \U0001f600"


# Ctrl-C


def interrupted_at(interrupted_prompt):
    def answer(prompt):
        if prompt == interrupted_prompt:
            raise KeyboardInterrupt
        return {"result": "x"}
    return answer


def test_ctrl_c_keeps_the_answers_so_far_and_says_how_to_continue(server, run, terminal):
    server.answer = interrupted_at("two")
    status, records = run("one\ntwo\nthree\n")
    assert (status, [record["line"] for record in records]) == (130, [1])
    assert terminal.messages == ["1 of 3 answered, 0 failed. See in.results.jsonl. "
                                 "Run the same command again for the rest."]


def test_ctrl_c_cancels_the_tasks_in_flight(server, run):
    server.answer = interrupted_at("two")
    run("one\ntwo\nthree\n")
    assert server.cancelled == [2, 3]


def test_prompts_cancelled_by_ctrl_c_are_submitted_again_by_the_next_run(server, run):
    server.answer = interrupted_at("two")
    run("one\ntwo\nthree\n")
    server.answer = failing()
    assert run("one\ntwo\nthree\n")[0] == 0
    assert [body["prompt"] for body in server.submissions[3:]] == ["two", "three"]


def test_ctrl_c_during_an_outage_tries_to_cancel_once(server, run, terminal):
    def answer(prompt):
        server.outages = [requests.ConnectionError()] * 2
        raise KeyboardInterrupt
    server.answer = answer
    assert run("one\ntwo\n")[0] == 130
    assert len(server.outages) == 1 and "is not answering" in terminal.messages[0]
