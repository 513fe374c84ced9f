"""The client with --file: many prompts, few at once, and a run that goes on with another's."""
from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import requests

from client import manage_client as client
from tests.support.client_stub import URL


class ManageServer:
    """The two routes in memory; what `answer` returns for a prompt is its body, None is not yet."""

    def __init__(self, web):
        self.prompts = {}
        self.in_flight = set()
        self.most_in_flight = 0
        self.submissions = []  # bodies
        self.forgets_after = None  # how many submissions it restarts, and counts from 1 again
        self.outages = []  # what to do instead of the next answers
        self.answer = lambda prompt: {"result": "echo " + prompt}
        self.keys = {}
        self.cancelled = []
        for method, path, view in (("POST", "/submit", self.submit), ("GET", "/result/", self.get),
                                   ("DELETE", "/result/", self.cancel)):
            web.add_callback(method, re.compile(re.escape(URL + path)), self.broken_or(view))

    def broken_or(self, view):
        def route(request):
            outage = self.outages.pop(0) if self.outages else None
            if isinstance(outage, Exception):
                raise outage
            if outage == "lost":
                view(request)
                raise requests.ReadTimeout
            status, body, headers = outage or (*view(request), {})
            return status, headers, json.dumps(body)
        return route

    def submit(self, request):
        body, key = json.loads(request.body), request.headers["Idempotency-Key"]
        if key in self.keys:
            return 200, {"task_id": self.keys[key], "status": "Task submitted."}
        if len(self.submissions) == self.forgets_after:
            self.prompts.clear()
        self.submissions.append(body)
        task_id = len(self.prompts) + 1
        self.prompts[task_id] = body["prompt"]
        self.keys[key] = task_id
        self.in_flight.add(task_id)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        return 200, {"task_id": task_id, "status": "Task submitted."}

    def get(self, request):
        task_id = int(re.search(r"/result/(\d+)", request.url).group(1))
        if task_id not in self.prompts:
            return 404, {"error": "Task not found."}
        answer = self.answer(self.prompts[task_id])
        if answer is None:
            return 202, {"task_id": task_id, "status": "Processing..."}
        self.in_flight.discard(task_id)
        return 200, {"task_id": task_id, **answer}


    def cancel(self, request):
        self.cancelled.append(int(request.url.rpartition("/")[2]))
        return 200, {"task_id": self.cancelled[-1], "status": "Cancelled."}


@pytest.fixture
def server(web):
    return ManageServer(web)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Runs `test.py --file`; returns its exit status and the records of its output."""
    monkeypatch.chdir(tmp_path)

    def run(text, *flags, name="in.txt"):
        Path(name).write_text(text, encoding="utf-8")
        status = client.main(["--file", name, *flags])
        return status, [json.loads(line) for line in read_output()]
    return run


def read_output():
    if not os.path.exists("in.results.jsonl"):
        return []
    with open("in.results.jsonl", encoding="utf-8") as file:
        return list(file)


def failing(*bad):
    return lambda prompt: {"error": "No."} if prompt in bad else {"result": "echo " + prompt}


def test_the_answers_are_json_lines_in_the_order_of_the_input(server, ask):
    status, records = ask("one\n\n  two ü\nthree", "--model", "m")
    assert status == 0
    assert records == [
        {"line": number, "task_id": task_id, "prompt": prompt, "model": "m",
         "result": "echo " + prompt}
        for number, task_id, prompt in [(1, 1, "one"), (3, 2, "two ü"), (4, 3, "three")]
    ]


def test_a_failed_one_has_its_error_and_the_exit_status_tells(server, ask):
    server.answer = failing("two")
    status, records = ask("one\ntwo\nthree\n")
    assert status == 1
    assert [record.get("error") for record in records] == [None, "No.", None]


def test_the_output_can_be_named(server, ask):
    ask("one\n", "--output", "out")
    assert json.loads(Path("out").read_text())["result"] == "echo one"


def test_json_lines_bring_every_field_of_a_submission(server, ask):
    line = {"prompt": "one", "model": "own", "options": {"seed": 1}, "ttl_seconds": 60,
            "timeout_seconds": 5}
    ask(json.dumps(line) + '\n{"prompt": "two"}\n', "--model", "m", name="in.jsonl")
    assert server.submissions == [line, {"prompt": "two", "model": "m"}]


def test_fields_for_all_do_not_replace_those_of_a_line(server, ask):
    lines = '{"prompt": "one", "ttl_seconds": 5}\n{"prompt": "two"}\n'
    status, records = ask(lines, "--fields", '{"ttl_seconds": 60, "raw": true}', name="in.jsonl")
    assert [body["ttl_seconds"] for body in server.submissions] == [5, 60]
    assert status == 0 and records[1]["raw"] is True


@pytest.mark.parametrize("bad", [
    "{", "[]", "3", "{}", '{"prompt": " "}', '{"prompt": 1}', '{"prompt": "x", "line": 1}',
    '{"prompt": "x", "options": {"seed": NaN}}',
])
def test_a_bad_line_is_named_before_anything_is_submitted(server, ask, capsys, bad):
    status, records = ask('{"prompt": "x"}\n\n' + bad + "\n", name="in.jsonl")
    assert (status, records, server.submissions) == (2, [], [])
    assert "in.jsonl, line 3: must be" in capsys.readouterr().err


def test_a_file_that_is_no_text_is_said_to_be_none(server, ask, capsys):
    Path("latin1.txt").write_bytes(b"\xfcber\n")
    assert client.main(["--file", "latin1.txt"]) == 2
    assert capsys.readouterr().err == "test.py: latin1.txt is not text in UTF-8.\n"


def test_a_line_that_the_server_refuses_fails_alone(server, ask):
    server.outages = [(400, {"error": "Unknown field: colour."}, {})]
    status, records = ask("one\ntwo\n")
    assert (status, records[0]["error"]) == (1, "Unknown field: colour.")
    assert records[1]["result"] == "echo two"


def test_a_refusal_that_is_not_the_lines_fault_stops_the_run(server, ask, capsys):
    server.outages = [(401, {"error": "A user token is needed."}, {})]
    status, records = ask("one\ntwo\n")
    assert (status, records) == (1, [])
    assert "test.py: A user token is needed." in capsys.readouterr().err


def test_few_are_in_flight_at_once(server, ask):
    ask("".join(f"{number}\n" for number in range(200)))
    assert 1 < server.most_in_flight <= 100
    assert len(server.submissions) == 200


def test_a_full_queue_is_waited_for_as_long_as_it_says(server, ask, pauses):
    server.outages = [(503, {"error": "The queue is full."}, {"Retry-After": "17"})]
    assert ask("one\n")[0] == 0
    assert pauses == [17]


def test_an_outage_is_ridden_out_and_said_once(server, ask, capsys):
    def answer(prompt):
        if prompt == "one":
            server.outages = [requests.ConnectionError()] * 30
        return {"result": "echo " + prompt}
    server.answer = answer
    status, records = ask("one\ntwo\n")
    assert status == 0 and len(records) == 2
    assert capsys.readouterr().err.count("does not answer") == 1


def test_an_outage_while_submitting_is_ridden_out(server, ask):
    server.outages = [(503, {"error": "Wait."}, {}), requests.ConnectionError()]
    assert ask("one\n")[0] == 0


def test_a_submission_whose_answer_is_lost_is_not_asked_twice(server, ask):
    server.outages = ["lost"]
    status, records = ask("one\ntwo\n")
    assert (status, len(server.submissions)) == (0, 2)
    assert [record["task_id"] for record in records] == [1, 2]


def test_a_cancelled_task_fails_its_line(server, ask):
    server.answer = lambda prompt: {"status": "Cancelled.", "error": "The task was cancelled."}
    assert [record["error"] for record in ask("one\n")[1]] == ["The task was cancelled."]


def test_a_server_that_is_not_there_from_the_start_is_not_waited_for(server, ask):
    server.outages = [requests.ConnectionError()]
    assert ask("one\n") == (1, [])


def test_while_the_first_takes_long_the_others_are_counted(server, ask, monkeypatch):
    bars = []
    monkeypatch.setattr(client.Terminal, "show", lambda self, text="": bars.append(text))

    def answer(prompt):
        counted = any("2 of 3 done" in bar for bar in bars)
        return {"result": "x"} if prompt != "1" or counted else None
    server.answer = answer
    assert ask("1\n2\n3\n")[0] == 0


def test_an_answer_is_written_when_all_before_it_are(server, ask, monkeypatch):
    bars, seen = [], []

    def show(self, text=""):
        bars.append(text)
        seen.append([json.loads(line)["line"] for line in read_output()])
    monkeypatch.setattr(client.Terminal, "show", show)
    server.answer = lambda prompt: None if prompt == "2" and len(bars) < 6 else {"result": "x"}
    ask("1\n2\n3\n")
    assert [1] in seen and [1, 3] not in seen
    assert seen[-1] == [1, 2, 3]


def test_a_server_that_lost_a_task_fails_that_line_alone(server, ask):
    def answer(prompt):
        server.prompts.pop(2, None)
        return {"result": "echo " + prompt}
    server.answer = answer
    records = ask("one\ntwo\nthree\n")[1]
    assert [record.get("error") for record in records] == [None, "Task not found.", None]


def test_ids_that_a_restarted_server_gives_again_mix_up_no_answers(server, ask):
    server.forgets_after = 20
    records = ask("".join(f"{number}\n" for number in range(100)))[1]
    answers = [record["result"] for record in records if "result" in record]
    assert answers == [f"echo {number}" for number in range(20, 100)]


def test_a_second_run_asks_only_what_the_first_did_not(server, ask):
    ask("one\ntwo\n")
    status, records = ask("one\ntwo\nthree\n")
    assert (status, len(records)) == (0, 3)
    assert [body["prompt"] for body in server.submissions] == ["one", "two", "three"]


def test_a_second_run_asks_again_what_failed_and_keeps_the_order(server, ask):
    server.answer = failing("two")
    ask("one\ntwo\nthree\n")
    server.answer = failing()
    status, records = ask("one\ntwo\nthree\n")
    assert status == 0
    assert [record["result"] for record in records] == ["echo one", "echo two", "echo three"]
    assert len(server.submissions) == 4


@pytest.mark.parametrize("torn_bytes", [1, 5, 40])
def test_a_line_torn_by_a_kill_is_cut_off_and_asked_again(server, ask, torn_bytes):
    ask("one\ntwo ü\n")
    whole = Path("in.results.jsonl").read_bytes()
    Path("in.results.jsonl").write_bytes(whole[:-torn_bytes])
    status, records = ask("one\ntwo ü\n")
    assert (status, len(server.submissions)) == (0, 3)
    assert [record["result"] for record in records] == ["echo one", "echo two ü"]


@pytest.mark.parametrize("run", [["one\nother\n"], ["one\ntwo\n", "--model", "m"], ["one\n"]])
def test_an_output_of_another_input_is_left_alone(server, ask, capsys, run):
    ask("one\ntwo\n")
    before = read_output()
    assert ask(*run)[0] == 2
    assert read_output() == before and len(server.submissions) == 2
    assert "name another --output" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["one\ntwo\n", "one", '{"prompt": "one"}'])
def test_the_input_is_not_taken_for_an_output(server, ask, text):
    assert ask(text, "--output", "in.txt")[0] == 2
    assert Path("in.txt").read_text() == text


def test_odd_characters_survive_a_second_run(server, ask):
    line = '{"prompt": "\\ud800 \u2028 \U0001f600"}\n'
    ask(line, name="in.jsonl")
    status, records = ask(line, name="in.jsonl")
    assert (status, len(server.submissions)) == (0, 1)
    assert records[0]["result"] == "echo \ud800 \u2028 \U0001f600"


def interrupted_at(prompt_then):
    def answer(prompt):
        if prompt == prompt_then:
            raise KeyboardInterrupt
        return {"result": "x"}
    return answer


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(server, ask, capsys):
    server.answer = interrupted_at("two")
    status, records = ask("one\ntwo\nthree\n")
    assert (status, [record["line"] for record in records]) == (130, [1])
    assert "1 of 3 answered, 0 failed, see in.results.jsonl. Run the same again" in (
        capsys.readouterr().err)


def test_ctrl_c_cancels_what_is_in_flight(server, ask):
    server.answer = interrupted_at("two")
    ask("one\ntwo\nthree\n")
    assert server.cancelled == [2, 3]


def test_what_ctrl_c_cancelled_is_asked_again_by_the_next_run(server, ask):
    server.answer = interrupted_at("two")
    ask("one\ntwo\nthree\n")
    server.answer = failing()
    assert ask("one\ntwo\nthree\n")[0] == 0
    assert [body["prompt"] for body in server.submissions[3:]] == ["two", "three"]


def test_ctrl_c_with_the_server_gone_tries_to_cancel_once(server, ask, capsys):
    def answer(prompt):
        server.outages = [requests.ConnectionError()] * 2
        raise KeyboardInterrupt
    server.answer = answer
    assert ask("one\ntwo\n")[0] == 130
    assert len(server.outages) == 1 and "does not answer" in capsys.readouterr().err
