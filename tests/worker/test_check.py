"""`llm_server.py --check`: it tries what the worker will do, and names each cause of a failure."""
from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
from typing import Any, Tuple

import pytest

import config
from tests.support import forked
from tests.support.processes import environment
from tests.support.stub_server import SOON_SECONDS, Answer, Request, StubServer
from tests.support.worker_stubs import StubManageServer, StubOllama
from worker.check import check


@pytest.fixture
def settings(ollama: StubOllama, manage: StubManageServer) -> config.Settings:
    return config.Settings(manage_server_url=manage.url, ollama_host=ollama.url,
                           worker_name="gpu-1")


def check_of(**settings: Any) -> Tuple[str, bool]:
    """Return the line about the Manage Server, and whether all is well."""
    report = check(config.Settings(**settings))
    return report.lines[0], report.is_ready


def test_the_claim_is_tried_with_all_that_a_worker_sends(
    settings: config.Settings, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.models = tuple(f"hf.co/somebody/model-{number}-GGUF:Q4_K_M" for number in range(500))
    assert check(settings).is_ready
    assert manage.checks == [{"worker": "gpu-1", "instance": "check", "lease": 30, "wait": 0,
                              "models": list(ollama.models), "check": True, "relays": True}]
    assert manage.claims == []


@pytest.mark.parametrize(("answer", "reason"), [
    ((413, "<html>", {}), "client_max_body_size"),
    ((414, "<html>", {}), "large_client_header_buffers"),
    ((502, "<html>", {}), "Is `python manage_server.py` behind it running?"),
    ((403, {"error": "Blocked."}, {}), "Something other than the Manage Server"),
    ((200, "<html>"), "answered a claim with something other than a task"),
    ((200, "<html>", {}), "UNAVAILABLE"), ((200, {}, {}), "knows only the four endpoints"),
    ((503, {"error": "The store is full."}), "  UNAVAILABLE: answered 503: The store is full."),
    ((400, {"error": "No such worker."}), "answered 400: No such worker."),
    ((404, {"error": "There is nothing at this path."}), "Is MANAGE_SERVER_URL right?"),
])
def test_a_refused_claim_is_reported_with_its_reason(
    settings: config.Settings, manage: StubManageServer, answer: Any, reason: str
) -> None:
    manage.check_answer = answer
    report = check(settings)
    assert reason in report.lines[0]
    assert report.is_ready == ("four endpoints" in reason)


def test_what_will_be_reported_and_what_is_left_out_is_said(
    settings: config.Settings, ollama: StubOllama
) -> None:
    ollama.models = ("llama3:latest", "qwen:480b-cloud", "gpt:cloud")
    report = check(settings)
    assert report.lines[2:4] == [
        "Models         llama3:latest",
        "Left out       gpt:cloud, qwen:480b-cloud: they run on ollama.com (ALLOW_CLOUD)"]
    assert report.is_ready
    allowing = check(dataclasses.replace(settings, allow_cloud=True))
    assert allowing.lines[2] == "Models         llama3:latest, qwen:480b-cloud, gpt:cloud"
    ollama.models = ("gpt:cloud",)
    assert not check(settings).is_ready


def test_a_refused_token_is_reported_with_what_to_do(
    ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.check_answer = 403, {"error": "This is a user token."}
    assert check_of(manage_server_url=manage.url, ollama_host=ollama.url, worker_token="us3r") == (
        f"Manage Server  {manage.url}  ACCESS DENIED: This is a user token. "
        "Set WORKER_TOKEN to one of its worker tokens.", False)


def test_models_for_which_there_are_no_tasks_are_counted(
    settings: config.Settings, manage: StubManageServer
) -> None:
    assert "no tasks for" not in "".join(check(settings).lines)
    manage.check_answer = 200, {"models_ignored": 1}
    report = check(settings)
    assert report.is_ready
    assert "no tasks for 1 of its 1 models" in report.lines[-2]


def test_a_server_of_the_four_endpoints_is_given_no_claim(ollama: StubOllama) -> None:
    with StubManageServer(is_plain=True) as manage:
        line, is_ready = check_of(manage_server_url=manage.url, ollama_host=ollama.url)
        assert "knows only the four endpoints" in line and is_ready
        assert manage.claims == []


def test_a_status_that_a_proxy_keeps_to_itself_does_not_matter(
    settings: config.Settings, manage: StubManageServer
) -> None:
    answer = manage.answer
    manage.answer = lambda request: (  # type: ignore[method-assign]
        (403, "<html>", {}) if request.path == "/status" else answer(request))
    assert check(settings).lines[0] == f"Manage Server  {manage.url}  ok"


def test_a_port_on_which_nothing_listens_is_named_as_such(ollama: StubOllama) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        report = check(config.Settings(manage_server_url=url, ollama_host=url))
    assert report.lines == [
        f"Manage Server  {url}  UNAVAILABLE: nothing listens on this port (connection refused). "
        "Is `python manage_server.py` running there, and is MANAGE_SERVER_URL right?",
        f"Ollama         {url}  UNAVAILABLE: nothing listens on this port (connection refused). "
        "Is `ollama serve` running there, and is OLLAMA_HOST right?",
        "Not ready; see above.",
    ]


def test_tls_at_a_plain_port_is_named_as_such(
    ollama: StubOllama, manage: StubManageServer
) -> None:
    url = manage.url.replace("http://", "https://")
    line, _ = check_of(manage_server_url=url, ollama_host=ollama.url)
    assert "speaks plain HTTP, not TLS, on this port. Begin MANAGE_SERVER_URL with http://" in line


@pytest.mark.parametrize(("answer", "reason"), [
    ((403, ""), "refuses this host name (403). Set OLLAMA_HOST"),
    ((302, "", {"Location": "http://bob:s3cret@elsewhere.test"}), "redirects to http://elsewhere"),
    ((502, "<html>"), "Is `ollama serve` behind it running?"),
    ((500, {"error": "disk\n\x1b[2J"}), "  UNAVAILABLE: answered 500: disk " + r"\x1b[2J"),
    ((200, "[" * 100_000), "Something other than Ollama"),
])
def test_what_is_wrong_with_ollama_is_reported(
    settings: config.Settings, ollama: StubOllama, answer: Any, reason: str
) -> None:
    ollama.tags_answer = answer
    report = check(settings)
    assert reason in report.lines[1] and not report.is_ready
    assert all(line.isprintable() for line in report.lines)


@pytest.mark.parametrize("answer", [
    (404, {"error": "There is nothing at this path."}), (401, {"error": "No token."}),
    (200, {"models": [{"name": "llama3"}]}),
])
def test_a_manage_server_in_place_of_ollama_is_named(
    settings: config.Settings, ollama: StubOllama, answer: Any
) -> None:
    ollama.tags_answer = (*answer, {"Llm-Tasks": "1"})
    report = check(settings)
    assert "a Manage Server answers there. Set OLLAMA_HOST to" in report.lines[1]
    assert not report.is_ready


def test_ollama_in_place_of_the_manage_server_is_named(ollama: StubOllama) -> None:
    class Ollama(StubServer):
        def answer(self, request: Request) -> Answer:
            is_root = request.path == "/" and request.method == "GET"
            return (200, "Ollama is running") if is_root else (404, "404 page not found")

    with Ollama() as server:
        line, is_ready = check_of(manage_server_url=server.url, ollama_host=ollama.url)
    assert "Ollama answers there. Set MANAGE_SERVER_URL to" in line and not is_ready


def test_a_missing_token_is_named_once(ollama: StubOllama, manage: StubManageServer) -> None:
    manage.check_answer = 401, {"error": "This path needs a worker token: send it."}
    line, _ = check_of(manage_server_url=manage.url, ollama_host=ollama.url)
    assert line.endswith("ACCESS DENIED: This path needs a worker token. Set WORKER_TOKEN.")


def test_names_of_models_and_passwords_in_urls_are_made_fit_to_print(
    settings: config.Settings, ollama: StubOllama, manage: StubManageServer
) -> None:
    ollama.models = ("a\x1b]52;c;\x07", "b\nReady to run tasks.")
    assert check(settings).lines[2] == r"Models         a\x1b]52;c;\x07, b\nReady to run tasks."
    with_password = config.Settings(
        manage_server_url="http://bob:s3cret@127.0.0.1:9",
        ollama_host=ollama.url.replace("//", "//bob:s3cret@"))
    assert "s3cret" not in "".join(check(with_password).lines)


def start(manage: StubManageServer, ollama: StubOllama, **options: Any) -> Any:
    # Without buffers, nothing would be left to write at the exit.
    environ = environment({"MANAGE_SERVER_URL": manage.url, "OLLAMA_HOST": ollama.url,
                           "PYTHONUNBUFFERED": "", **options.pop("environ", {})})
    return forked.start("llm_server.py", options.pop("flag", "--check"), env=environ,
                        stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("flag", ["--check", "--help"])
def test_a_reader_that_is_gone_is_no_error(
    manage: StubManageServer, ollama: StubOllama, flag: str
) -> None:
    read, write = os.pipe()
    os.close(read)
    with start(manage, ollama, stdout=write, flag=flag) as process:
        os.close(write)
        assert (process.communicate(timeout=SOON_SECONDS), process.returncode) == ((None, b""), 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_said_in_one_line(manage: StubManageServer, ollama: StubOllama) -> None:
    with open("/dev/full", "wb") as full, start(manage, ollama, stdout=full) as process:
        _, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (
        1, b"llm_server.py: the report can't be written: No space left on device\n")


def test_a_terminal_without_utf_8_gets_the_names_all_the_same(
    manage: StubManageServer, ollama: StubOllama
) -> None:
    ollama.models = ("m\xfcller:7b", "\u5149")
    environ = {"PYTHONIOENCODING": "ascii"}
    with start(manage, ollama, stdout=subprocess.PIPE, environ=environ) as process:
        output, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, errors) == (0, b"")
    assert rb"m\xfcller:7b, \u5149" in output


def test_a_proxy_is_not_used_for_this_machine(
    manage: StubManageServer, ollama: StubOllama
) -> None:
    environ = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")
    with start(manage, ollama, stdout=subprocess.PIPE, environ=environ) as process:
        process.communicate(timeout=SOON_SECONDS)
    assert process.returncode == 0


@pytest.mark.parametrize("token", ["s3cret\n", "s3cret\r\n", " s3cret "])
def test_a_token_is_read_as_a_file_gives_it(
    manage: StubManageServer, ollama: StubOllama, token: str
) -> None:
    with start(manage, ollama, stdout=subprocess.PIPE, environ={"WORKER_TOKEN": token}) as process:
        process.communicate(timeout=SOON_SECONDS)
    assert process.returncode == 0
    assert {sent for _, sent in manage.authorizations} == {"Bearer s3cret"}


def test_a_token_that_no_header_can_carry_is_named(
    manage: StubManageServer, ollama: StubOllama
) -> None:
    environ = {"WORKER_TOKEN": "s3c\u200bret"}
    with start(manage, ollama, stdout=subprocess.PIPE, environ=environ) as process:
        output, errors = process.communicate(timeout=SOON_SECONDS)
    assert (process.returncode, output) == (2, b"")
    assert errors.startswith(b"llm_server.py: WORKER_TOKEN ") and errors.count(b"\n") == 1
