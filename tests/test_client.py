"""The client: what a user sees of it, whatever the server answers. No Manage Server is needed."""
from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import requests
import responses

import test as client

URL = "http://manage.test"
PROGRAM = str(Path(client.__file__).resolve())
QUEUED = {"task_id": 1, "status": "Processing...", "state": "queued", "queue_position": 3}
DONE = {"task_id": 1, "result": "Rayleigh."}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("MANAGE_SERVER_URL", URL)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The seconds that the client would have slept; who sleeps for ever fails."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        assert len(slept) < 1000, "it would wait for ever"
    # Not time.sleep itself, which subprocess uses too.
    clock = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr(client, "time", clock)
    return slept


@pytest.fixture
def web():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


# Submitting


def submitted(web):
    return json.loads(web.calls[-1].request.body)


def test_submit_returns_the_id_of_the_task(web):
    web.add("POST", URL + "/submit", json={"task_id": 7, "status": "Task submitted."})
    assert client.submit_task("Why?", "llama3") == 7
    assert submitted(web) == {"prompt": "Why?", "model": "llama3"}


@pytest.mark.parametrize("model", ["", None])
def test_without_a_model_none_is_sent(web, model):
    web.add("POST", URL + "/submit", json={"task_id": 7})
    client.submit_task("Why?", model)
    assert submitted(web) == {"prompt": "Why?"}


def test_further_fields_are_submitted_as_they_are(web):
    web.add("POST", URL + "/submit", json={"task_id": 7})
    client.submit_task("Why?", "", options={"seed": 0}, think=False)
    assert submitted(web) == {"prompt": "Why?", "options": {"seed": 0}, "think": False}


def test_the_server_can_be_given(web):
    web.add("POST", "http://other.test/submit", json={"task_id": 7})
    assert client.submit_task("Why?", "", server_url="http://other.test") == 7


def test_a_refusal_is_raised_in_the_servers_words(web):
    web.add("POST", URL + "/submit", status=400, json={"error": "No prompt provided."})
    with pytest.raises(client.TaskError, match=r"^No prompt provided\.$"):
        client.submit_task("", "")


def test_an_unreachable_server_is_raised_with_what_to_do(web):
    web.add("POST", URL + "/submit", body=requests.ConnectionError())
    with pytest.raises(client.TaskError, match="not answer at http://manage"):
        client.submit_task("Why?", "")


@pytest.mark.parametrize("status", [200, 302, 404, 502])
@pytest.mark.parametrize("body", ["<html>", "[]", "{}"])
def test_something_else_at_the_url_is_said_to_be_something_else(web, status, body):
    web.add("POST", URL + "/submit", body=body, status=status, headers={"Location": "/"})
    with pytest.raises(client.TaskError, match=f"something else, with status {status}"):
        client.submit_task("Why?", "")


def test_an_error_is_one_line(web):
    web.add("POST", URL + "/submit", status=400, json={"error": "Two\nlines."})
    with pytest.raises(client.TaskError, match=r"^Two lines\.$"):
        client.submit_task("Why?", "")


def test_the_environment_of_the_session_is_looked_at_once(monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/ca.pem")
    session = client._session(URL)
    assert not session.trust_env
    assert session.proxies["http"] == "http://proxy.test:3128"
    assert session.verify == "/ca.pem"


# Waiting


def results(web, *answers):
    """GET /result/1 gives these one after the other: bodies, or an exception."""
    for answer in answers:
        if isinstance(answer, Exception):
            web.add("GET", URL + "/result/1", body=answer)
        else:
            status = 202 if answer.get("status") == "Processing..." else 200
            web.add("GET", URL + "/result/1", json=answer, status=status)


def test_the_result_is_returned(web):
    results(web, DONE)
    assert client.wait_for_result(1) == "Rayleigh."


def test_the_server_is_asked_to_hold_the_request(web):
    results(web, DONE)
    client.wait_for_result(1)
    assert web.calls[0].request.url.endswith("?wait=25")


def test_a_task_that_is_not_final_is_waited_for(web):
    results(web, QUEUED, {"task_id": 1, "status": "Processing..."}, DONE)
    assert client.wait_for_result(1) == "Rayleigh."


def test_a_failed_task_raises_the_reason(web):
    results(web, {"task_id": 1, "status": "Failed.", "error": "model 'x' not found"})
    with pytest.raises(client.TaskError, match=r"^model 'x' not found$"):
        client.wait_for_result(1)


def test_an_unknown_task_raises(web):
    web.add("GET", URL + "/result/1", status=404, json={"error": "Task not found."})
    with pytest.raises(client.TaskError, match=r"^Task not found\.$"):
        client.wait_for_result(1)


def test_a_server_that_ignores_wait_is_not_hammered(web, pauses):
    results(web, *[QUEUED] * 8, DONE)
    client.wait_for_result(1)
    assert pauses[0] == 0.5 and pauses == sorted(pauses) and pauses[-1] == 5


def test_after_a_request_that_was_held_there_is_no_pause(web, pauses, monkeypatch):
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(client.time, "monotonic", lambda: next(clock))
    results(web, QUEUED, QUEUED, DONE)
    client.wait_for_result(1)
    assert pauses == []


def test_a_server_that_never_answered_is_not_waited_for(web):
    results(web, requests.ConnectionError())
    with pytest.raises(client.TaskError, match="is `python manage_server"):
        client.wait_for_result(1)


def test_an_outage_while_waiting_is_waited_out_with_growing_pauses(web, pauses):
    results(web, QUEUED, *[requests.ConnectionError()] * 3, requests.Timeout(), DONE)
    assert client.wait_for_result(1) == "Rayleigh."
    assert pauses[1:] == [1, 2, 4, 8]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_proxy_without_its_server_is_an_outage(web, status):
    results(web, QUEUED)
    web.add("GET", URL + "/result/1", body="<html>Bad Gateway", status=status)
    results(web, DONE)
    assert client.wait_for_result(1) == "Rayleigh."


@pytest.mark.parametrize(("body", "words"), [
    ({}, "waiting"),
    ({"state": "queued"}, "queued"),
    ({"state": "queued", "queue_position": 3}, "queued, place 3 in the queue"),
    ({"state": "queued", "model_available": False}, "queued, no connected worker has model m"),
    ({"state": "running", "attempt": 1}, "running"),
    ({"state": "running", "attempt": 2, "running_seconds": 12.3}, "running for 12 s (attempt 2)"),
    ({"state": "running", "model_available": False}, "running"),
])
def test_the_waiting_line_says_what_is_known(body, words):
    assert client._waiting_for(body, "m") == words


# Many prompts


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
        for method, path, view in (("POST", "/submit", self.submit), ("GET", "/result/", self.get)):
            web.add_callback(method, re.compile(re.escape(URL + path)), self.broken_or(view))

    def broken_or(self, view):
        def route(request):
            outage = self.outages.pop(0) if self.outages else None
            if isinstance(outage, Exception):
                raise outage
            status, body, headers = outage or (*view(request), {})
            return status, headers, json.dumps(body)
        return route

    def submit(self, request):
        body = json.loads(request.body)
        if len(self.submissions) == self.forgets_after:
            self.prompts.clear()
        self.submissions.append(body)
        task_id = len(self.prompts) + 1
        self.prompts[task_id] = body["prompt"]
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
    line = {"prompt": "one", "model": "own", "options": {"seed": 1}}
    ask(json.dumps(line) + '\n{"prompt": "two"}\n', "--model", "m", name="in.jsonl")
    assert server.submissions == [line, {"prompt": "two", "model": "m"}]


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


def test_a_server_that_is_not_there_from_the_start_is_not_waited_for(server, ask):
    server.outages = [requests.ConnectionError()]
    assert ask("one\n") == (1, [])


def test_while_the_first_takes_long_the_others_are_counted(server, ask, monkeypatch):
    bars = []
    monkeypatch.setattr(client._StatusLine, "show", lambda self, text="": bars.append(text))

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
    monkeypatch.setattr(client._StatusLine, "show", show)
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


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(server, ask, capsys):
    def answer(prompt):
        if prompt == "two":
            raise KeyboardInterrupt
        return {"result": "x"}
    server.answer = answer
    status, records = ask("one\ntwo\nthree\n")
    assert (status, [record["line"] for record in records]) == (130, [1])
    assert "1 of 3 answered, 0 failed, see in.results.jsonl. Run the same again" in (
        capsys.readouterr().err)


# The program itself, against a server of the standard library


class StubServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.submissions = []
        self.answers = [(200, DONE)]  # the last one for ever
        self.asked = threading.Event()


class StubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.submissions.append(body)
        self.answer(200, {"task_id": 1, "status": "Task submitted."})

    def do_GET(self):
        answers = self.server.answers
        self.answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))
        self.server.asked.set()

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stub(monkeypatch):
    server = StubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("MANAGE_SERVER_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def run(*arguments, stdin="", **environ):
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments], input=stdin.encode(), timeout=15,
        capture_output=True, env={**os.environ, **environ},
    )
    return done.returncode, done.stdout.decode().replace("\r", ""), done.stderr.decode()


def test_a_pipe_gets_nothing_but_the_answer(stub):
    stub.answers.insert(0, (202, QUEUED))
    assert run("Why?", "--model", "m") == (0, "Rayleigh.\n", "")
    assert stub.submissions == [{"prompt": "Why?", "model": "m"}]


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


def test_an_unreachable_server_exits_1_with_what_to_do():
    status, output, errors = run("Why?", "--manage-server-url", "http://127.0.0.1:1")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert "is `python manage_server.py` running?" in errors


@pytest.mark.parametrize("arguments", [
    ["Why?", "--file", "x"], ["Why?", "--output", "x"], ["--nonsense"], ["--file", "/missing/x"],
    ["Why?", "--manage-server-url", "ftp://x"],
])
def test_bad_usage_exits_2_with_one_line(arguments):
    status, output, errors = run(*arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)


def test_an_answer_that_stdout_cannot_hold_is_printed_with_question_marks(stub):
    stub.answers = [(200, {"task_id": 1, "result": "光 \ud800!"})]
    assert run("Why?", PYTHONIOENCODING="ascii", PYTHONUTF8="0") == (0, "? ?!\n", "")


def test_a_file_shows_no_bar_without_a_terminal(stub, tmp_path):
    (tmp_path / "in.txt").write_text("Why?\n")
    status, output, errors = run("--file", str(tmp_path / "in.txt"))
    assert (status, output) == (0, "")
    assert errors.startswith("1 of 1 answered, 0 failed") and errors.count("\n") == 1


@contextlib.contextmanager
def on_terminal(*arguments):
    """The program with stderr on a pseudo-terminal; gives the process and a function to read it."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=theirs,
    )
    os.close(theirs)
    guard = threading.Timer(15, process.kill)
    guard.start()

    def read():
        seen = b""
        with contextlib.suppress(OSError):  # Linux says so when the program has closed it
            for chunk in iter(lambda: os.read(ours, 1024), b""):
                seen += chunk
        return seen.decode()
    try:
        yield process, read
    finally:
        process.kill()
        process.communicate()
        guard.cancel()
        os.close(ours)


def test_a_terminal_shows_what_is_waited_for_and_clears_it(stub):
    stub.answers.insert(0, (202, QUEUED))
    with on_terminal("Why?") as (process, read):
        shown = read()
        assert process.stdout.read() == b"Rayleigh." + os.linesep.encode()
    assert "\rqueued, place 3 in the queue" in shown
    assert "\n" not in shown and shown.endswith("\r" + " " * 79 + "\r")


def test_a_terminal_shows_a_bar_for_a_file(stub, tmp_path):
    (tmp_path / "in.txt").write_text("Why?\n")
    with on_terminal("--file", str(tmp_path / "in.txt")) as (_, read):
        shown = read()
    assert "\r[....................] 0 of 1 done, 0 failed" in shown
    assert "1 of 1 answered" in shown


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to one process")
def test_ctrl_c_exits_130_and_says_where_the_answer_will_be(stub):
    stub.answers = [(202, QUEUED)]
    with on_terminal("Why?") as (process, read):
        assert stub.asked.wait(10)
        process.send_signal(signal.SIGINT)
        shown = read()
        assert process.wait(10) == 130
    assert f"Task 1 goes on; its answer: {stub.url}/result/1" in shown
    assert "Traceback" not in shown
