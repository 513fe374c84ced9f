"""test.py as a program without a terminal: its output and exit status."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from test import main
from tests.support import forked
from tests.support.client_stub import DONE, QUEUED, SOON_SECONDS, event, run
from tests.support.processes import ROOT

PROGRAM = str(ROOT / "test.py")


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
        "program? Retrying a few times.\nThe Manage Server is answering again.\n")


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {}])
def test_a_server_that_is_busy_is_said_once_on_stderr(stub, headers):
    stub.refusals = [(503, {"error": "The task store cannot write: disk is full."}, headers)] * 2
    status, output, errors = run("Why?")
    assert (status, output) == (0, "Rayleigh.\n")
    assert errors.count("The task store cannot write: disk is full.") == 1


def test_a_task_that_waits_for_a_worker_is_said_once_on_stderr(stub):
    waiting = {**QUEUED, "waiting_for": "a worker with model m", "worker_seen_seconds": 300.0}
    stub.answers = [(202, waiting)] * 3 + stub.answers
    assert run("Why?") == (0, "Rayleigh.\n",
                           "Waiting for a worker with model m (last seen 5 min ago).\n")


@pytest.mark.parametrize("text", ["\033[2J\007\x9b\r\n\tx", "a\n" * 3])
def test_a_pipe_gets_the_answer_unchanged(stub, text):
    stub.answers = [(200, {"task_id": 1, "result": text})]
    done = start("Why?", stdout=subprocess.PIPE)
    assert done.stdout.read() == (text + "\n").replace("\n", os.linesep).encode()


def start(*arguments, **options):
    return forked.start("test.py", *arguments, **options)


@pytest.fixture
def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_closed_pipe_ends_it_without_a_word(stub, closed_pipe):
    program = start("Why?", stdout=closed_pipe, stderr=subprocess.PIPE)
    assert (program.communicate()[1], program.returncode) == (b"", 141)


def test_help_into_a_closed_pipe_ends_it_without_a_word(closed_pipe):
    program = start("--help", stdout=closed_pipe, stderr=subprocess.PIPE)
    assert program.communicate()[1] == b""


def test_a_closed_stderr_does_not_cost_the_answer(stub, closed_pipe):
    stub.lost = ["/submit"]
    program = start("Why?", stdout=subprocess.PIPE, stderr=closed_pipe)
    assert (program.communicate()[0].strip(), program.returncode) == (b"Rayleigh.", 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this platform has no /dev/full")
def test_a_full_disk_is_said_with_the_way_to_the_answer(stub):
    with open("/dev/full", "wb") as full:
        program = start("Why?", stdout=full, stderr=subprocess.PIPE)
    errors = program.communicate()[1].decode()
    assert program.returncode == 1
    assert errors == ("test.py: The answer can't be written: No space left on device\n"
                      f"To get its result later:\n  curl {stub.url}/result/1\n")


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX is needed")
@pytest.mark.parametrize(("redirections", "status", "output"), [
    (">&-", 1, b""), ("2>&-", 0, b"Rayleigh.\n"), ("<&-", 0, b"Rayleigh.\n"),
    ("<&- 2>&-", 0, b"Rayleigh.\n"), ("<&- 2>&- >&-", 1, b""),
])
def test_closed_streams_are_no_tracebacks(stub, redirections, status, output):
    done = subprocess.run(f'"{sys.executable}" "{PROGRAM}" Why? {redirections}', shell=True,
                          capture_output=True)
    assert (done.returncode, done.stdout) == (status, output)
    assert b"Traceback" not in done.stderr and bool(done.stderr) == (redirections == ">&-")


def test_a_missing_file_of_certificates_is_one_line_that_names_the_variable():
    assert run("Why?", "--manage-server-url", "https://127.0.0.1:1",
               REQUESTS_CA_BUNDLE="/nope.pem") == (
        1, "", "test.py: REQUESTS_CA_BUNDLE names '/nope.pem', which can't be read: No such file "
               "or directory.\n")


@pytest.mark.parametrize("token", ["s3cret\n", "\ufeffs3cret\r\n", " s3cret\u200b"])
def test_a_token_is_sent_without_what_surrounds_it(stub, token):
    assert run("Why?", USER_TOKEN=token)[0] == 0
    assert stub.headers[0]["Authorization"] == "Bearer s3cret"


def test_a_token_that_cannot_be_sent_is_one_line_that_does_not_show_it(stub):
    status, output, errors = run("Why?", USER_TOKEN="s3\u200bcret")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("test.py: USER_TOKEN must") and "s3" not in errors
    assert stub.headers == []


def test_loopback_is_not_asked_through_a_proxy(stub):
    proxies = dict.fromkeys(["http_proxy", "HTTP_PROXY", "ALL_PROXY"], "http://127.0.0.1:1")
    assert run("Why?", **proxies, NO_PROXY="", no_proxy="") == (0, "Rayleigh.\n", "")


@pytest.mark.parametrize("environ", [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {},
])
def test_a_prompt_is_utf_8_whatever_the_locale(stub, environ):
    assert run("h\u00fc\U0001f600", **environ)[0] == 0
    assert run("-", stdin="h\u00fc\U0001f600", **environ)[0] == 0
    assert [body["prompt"] for body in stub.submissions] == ["h\u00fc\U0001f600"] * 2


def test_further_fields_are_submitted(stub):
    assert run("Why?", "--fields", '{"think": true, "ttl_seconds": 60}')[0] == 0
    assert stub.submissions == [{"prompt": "Why?", "think": True, "ttl_seconds": 60}]


def test_a_dash_reads_the_prompt_from_stdin(stub):
    assert run("-", stdin="two\nlines\n")[0] == 0
    assert stub.submissions == [{"prompt": "two\nlines\n"}]


def test_without_arguments_it_reads_prompt_and_model_and_asks_nobody_for_them(stub):
    assert run(stdin="Why?\nm\n") == (0, "Rayleigh.\n", "")
    assert stub.submissions == [{"prompt": "Why?", "model": "m"}]


def test_a_failed_task_exits_1_with_the_reason(stub):
    stub.answers = [(200, {"task_id": 1, "status": "Failed.", "error": "model 'x' not found"})]
    assert run("Why?") == (1, "", "test.py: model 'x' not found\n")


@pytest.mark.parametrize("environ", [{"USER_TOKEN": "s3cret"}, {}])
def test_a_failure_after_the_submission_says_once_how_to_get_the_result_later(stub, environ):
    stub.answers = [(202, QUEUED), (401, {"error": "Unknown or revoked token."})]
    status, output, errors = run("Why?", **environ)
    header = ' -H "Authorization: Bearer $USER_TOKEN"' if environ else ""
    advice = "Set USER_TOKEN" + (" to a valid user token" if environ else "")
    assert (status, output) == (1, "")
    assert errors == (f"test.py: Unknown or revoked token. {advice}.\n"
                      f"To get its result later:\n  curl{header} {stub.url}/result/1\n")


def test_a_task_that_the_server_does_not_have_cannot_be_had_later(stub):
    stub.answers = [(404, {"error": "Task not found."})]
    assert run("Why?") == (1, "", "test.py: Task not found.\n")


STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT")
                if hasattr(signal, name)]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send these signals")
@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("times", [1, 2])
def test_every_way_to_end_it_cancels_the_task(stub, number, times):
    if number == signal.SIGINT and times == 2:
        pytest.skip("a second Ctrl-C leaves the task alone")
    stub.answers = [(202, QUEUED)]
    program = start("Why?", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert stub.got_a_get.wait(SOON_SECONDS)
    for _ in range(times):
        program.send_signal(number)
    output, errors = program.communicate(timeout=SOON_SECONDS)
    assert (output, errors.decode().replace("\r", "")) == (b"", "Cancelled task 1.\n")
    assert (program.returncode, stub.deleted) == (128 + number, ["/result/1"])


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send these signals")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_task_whose_id_has_not_come_yet_is_cancelled_too(stub, number):
    test_is_over = threading.Event()
    stub.submit_holds = [test_is_over]
    program = start("Why?", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert stub.got_a_post.wait(SOON_SECONDS)
    program.send_signal(number)
    errors = program.communicate(timeout=SOON_SECONDS)[1].decode().strip()
    test_is_over.set()
    assert (program.returncode, errors) == (128 + number, "Stopped.")
    assert stub.deleted == ["/result/1"]
    keys = [headers["Idempotency-Key"] for headers in stub.headers]
    assert len(stub.submissions) == 2 and keys[0]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send these signals")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_way_to_end_it_cancels_the_tasks_of_a_file(stub, tmp_path, number):
    stub.answers = [(202, QUEUED)]
    (tmp_path / "in.txt").write_text("Why?\n")
    program = start("--file", str(tmp_path / "in.txt"), stderr=subprocess.PIPE)
    assert stub.got_a_get.wait(SOON_SECONDS)
    program.send_signal(number)
    errors = program.communicate(timeout=SOON_SECONDS)[1].decode()
    assert "0 of 1 answered" in errors and "Traceback" not in errors
    assert (program.returncode, stub.deleted) == (128 + number, ["/result/1"])


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_under_nohup_the_end_of_the_terminal_ends_nothing(stub):
    stub.answers = [(202, QUEUED)]
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program = subprocess.Popen([sys.executable, PROGRAM, "Why?"], stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    assert stub.got_a_get.wait(SOON_SECONDS)
    program.send_signal(signal.SIGHUP)
    stub.answers = [(200, DONE)]
    assert program.communicate(timeout=SOON_SECONDS)[0].strip() == b"Rayleigh."
    assert (program.returncode, stub.deleted) == (0, [])


def test_an_unreachable_server_exits_1_with_one_line():
    status, output, errors = run("Why?", "--manage-server-url", "http://127.0.0.1:1")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("test.py: The Manage Server at http://127.0.0.1:1 is not answering: ")


@pytest.mark.parametrize("arguments", [
    ["Why?", "--file", "x"], ["Why?", "--output", "x"], ["--nonsense"],
    ["Why?", "--manage-server-url", "ftp://x"], ["Why?", "--fields", "[]"],
    ["Why?", "--fields", '{"think": NaN}'], ["Why?", "--fields", "[" * 100_000],
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
