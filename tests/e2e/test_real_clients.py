"""Clients from PyPI talk to the Manage Server as to an Ollama; all programs run as processes."""
from __future__ import annotations

import contextlib
import http.client
import json
import threading
from urllib.parse import urlsplit

import pytest

from tests.support.fake_ollama import FakeOllama, Script
from tests.support.processes import TIMEOUT_SECONDS, Process, ask, wait_until
from tests.support.real_clients import CLIENTS, IMAGE, need
from tests.support.wires import Reply

pytestmark = pytest.mark.timeout(180)

MODEL = "llama3"
TEXT = Reply().text
ALICE = {"Authorization": "Bearer alice-secret"}
CALL = ("weather", {"city": "Paris"})
clients = pytest.mark.parametrize("name", CLIENTS)
streaming = pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])


def answers(is_tried):
    """Have a test run with streamed and whole answers of the clients for which it `is_tried`."""
    return pytest.mark.parametrize(("name", "streams"), [
        pytest.param(name, streams, id=f"{name} {'streamed' if streams else 'whole'}")
        for name, kind in CLIENTS.items() for streams in (True, False) if is_tried(kind, streams)
    ])


all_answers = answers(lambda kind, streams: streams or not kind.is_program)


class System:
    """A fake Ollama, a worker with one slot, and a Manage Server that is soon impatient."""

    def __init__(self, stack):
        self.ollama = stack.enter_context(FakeOllama(f"{MODEL}:latest"))
        self.server = stack.enter_context(Process("tests/support/impatient_server.py", environ={
            "MANAGE_PORT": "0", "USER_TOKENS": "alice:alice-secret,bob:bob-secret",
            "WORKER_TOKENS": "gpu:gpu-secret", "TOKENS_IN_PATHS": "yes",
        }))
        self.url = self.server.url()
        self.worker = stack.enter_context(self.make_worker("gpu"))
        wait_until(lambda: self.ask("/status")["workers"], "the worker is connected")

    def ask(self, path):
        return ask(self.url, "GET", path, headers=ALICE).body

    def is_idle(self):
        status = self.ask("/status")
        return not status["queued"] and not status["running"]

    def make_worker(self, name):
        return Process("llm_server.py", environ={
            "MANAGE_SERVER_URL": self.url, "OLLAMA_HOST": self.ollama.url,
            "WORKER_TOKEN": "gpu-secret", "WORKER_NAME": name,
        })

    def open(self, method, path, body=None, headers=ALICE):
        """Send a request; return its connection and the answer, which can still be read."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_SECONDS)
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, headers)
        return connection, connection.getresponse()


@pytest.fixture(scope="module")
def module_system():
    with contextlib.ExitStack() as stack:
        system = System(stack)
        wait_until(lambda: system.ask("/api/tags")["models"], "the worker has reported its models")
        yield system


@pytest.fixture
def system(module_system):
    yield module_system
    module_system.ollama.release_all()
    wait_until(module_system.is_idle, "no task is left")
    module_system.ollama.reset()


@pytest.fixture
def make_client(tmp_path):
    """Make clients by name."""
    def make(name, url, token="alice-secret"):
        kind = CLIENTS[name]
        need(kind.package)
        return kind(url, token, tmp_path)

    return make


def failure_of(client, model, streams):
    """What a client says of the error that it meets."""
    with pytest.raises(Exception) as caught:
        client.text(model, streams)
    return client.failure(caught.value)


@all_answers
def test_an_answer_and_the_request_for_it_are_as_without_a_manage_server(
    name, streams, system, make_client
):
    for url in (system.ollama.url, system.url):
        assert make_client(name, url).text(MODEL, streams) == TEXT
    direct, relayed = system.ollama.exchanges
    assert (relayed.path, relayed.query, relayed.body) == (direct.path, direct.query, direct.body)
    for header in ("Authorization", "X-Api-Key", "Cookie", "Origin"):
        assert relayed.headers[header] is None
    assert relayed.headers["Host"] == urlsplit(system.ollama.url).netloc


@pytest.mark.parametrize("name", [name for name, kind in CLIENTS.items() if kind.can_use_tools])
@streaming
def test_tools_go_through_and_their_calls_come_back(name, streams, system, make_client):
    system.ollama.script(Script(Reply(["Wait."], tool="weather")))
    client = make_client(name, system.url)
    assert client.text(MODEL, streams, tool=True) == "Wait."
    assert client.calls == [CALL]
    tool = system.ollama.exchanges[0].fields["tools"][0]
    assert tool.get("function", tool)["name"] == "weather"


@answers(lambda kind, streams: kind.can_see and not (streams and kind.is_program))
def test_an_image_goes_through(name, streams, system, make_client):
    import base64

    assert make_client(name, system.url).text(MODEL, streams, image=True) == TEXT
    assert base64.b64encode(IMAGE) in system.ollama.exchanges[0].body


@all_answers
def test_a_model_that_nobody_has_is_not_found_in_the_words_of_ollama(
    name, streams, system, make_client
):
    relayed = failure_of(make_client(name, system.url), "nobody-has-this", streams)
    # A program has no status to compare.
    if not CLIENTS[name].is_program:
        direct = failure_of(make_client(name, system.ollama.url), "nobody-has-this", streams)
        assert relayed.status == direct.status
    assert "model 'nobody-has-this' not found" in relayed.text or name == "llm-ollama"


@all_answers
def test_a_wrong_token_is_refused_in_words_that_the_client_shows(
    name, streams, system, make_client
):
    failure = failure_of(make_client(name, system.url, "wrong"), MODEL, streams)
    # llm-ollama lists the models first, and knows none without a token.
    if name != "llm-ollama":
        assert failure.status in (401, None)
        assert "token" in failure.text
    assert system.ollama.exchanges == []


@all_answers
def test_an_error_of_ollama_reaches_the_client_as_it_is_and_is_not_tried_again(
    name, streams, system, make_client
):
    # After a 500 the SDK of OpenAI, which this program uses, sends the request again.
    status = 400 if name == "llm openai" else 500
    system.ollama.script(Script(status=status, error="out of memory"))
    failure = failure_of(make_client(name, system.url), MODEL, streams)
    assert failure.status in (status, None)
    assert "out of memory" in failure.text
    assert len(system.ollama.exchanges) == 1


@clients
def test_hanging_up_in_the_middle_of_a_stream_stops_ollama(name, system, make_client):
    system.ollama.script(Script(hold_before=1))
    pieces = make_client(name, system.url).pieces(MODEL)
    # An empty piece keeps the connection alive until the worker has begun.
    assert next(filter(None, pieces))
    exchange = system.ollama.next_exchange()
    assert not exchange.hung_up.is_set()
    pieces.close()
    exchange.wait_for_hang_up()


@pytest.mark.parametrize(("name", "how"), [
    (name, how) for name, kind in CLIENTS.items() for how in ("fail_before", "break_before")
    if how == "fail_before" or not kind.is_program
])
def test_half_an_answer_is_not_taken_for_a_whole_one(name, how, system, make_client):
    system.ollama.script(Script(hold_before=1, **{how: 1}))
    client = make_client(name, system.url)
    pieces = client.pieces(MODEL)
    assert next(filter(None, pieces))
    # Before the client has read a piece, there would be another attempt, of which it sees nothing.
    system.ollama.next_exchange().release()
    with pytest.raises(Exception) as caught:
        list(pieces)
    assert client.failure(caught.value).text
    assert len(system.ollama.exchanges) == 1


@clients
def test_a_stream_that_waits_in_the_queue_is_kept_alive(name, system, make_client):
    client = make_client(name, system.url)
    with occupied(system) as exchange:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(client.text(MODEL, True)))
        asking.start()
        wait_until(lambda: queued(system) == 1, "the client waits")
        # This one waits behind it, and is sent keep-alives at the same times.
        connection, answer = system.open("POST", "/api/generate", {"model": MODEL, "prompt": "x"})
        for _ in range(3):
            assert json.loads(answer.readline())["response"] == ""
        connection.close()
        answer.close()
        wait_until(lambda: queued(system) == 1, "the one that hung up is cancelled")
        exchange.release()
        asking.join(TIMEOUT_SECONDS)
    assert answers == [TEXT]


@contextlib.contextmanager
def occupied(system):
    """The only slot of the worker is taken."""
    system.ollama.script(Script(hold_before=0))
    connection, answer = None, None

    def occupy():
        nonlocal connection, answer
        connection, answer = system.open(
            "POST", "/api/generate", {"model": MODEL, "prompt": "first"})

    thread = threading.Thread(target=occupy)
    thread.start()
    exchange = system.ollama.next_exchange()
    try:
        yield exchange
    finally:
        exchange.release()
        thread.join(TIMEOUT_SECONDS)
        answer.read()
        connection.close()


def queued(system):
    return system.ask("/status")["queued"]


@pytest.mark.parametrize("streams", [True, False])
def test_the_ollama_program_runs_a_model_with_a_token_in_its_path(streams, system):
    """What `ollama run llama3 hello` sends, request by request."""
    agent = {"User-Agent": "ollama/0.33.0 (amd64 linux) Go/go1.24.1", "Accept": "application/json"}
    path = "/t/alice-secret"
    for method, route, body in (
        ("HEAD", "/", None), ("POST", "/api/show", {"model": MODEL, "verbose": False}),
        ("POST", "/api/generate", {"model": MODEL, "prompt": "hello", "options": {},
                                   "stream": streams}),
    ):
        connection, answer = system.open(method, path + route, body, agent)
        content = answer.read()
        connection.close()
        assert answer.status == 200, content
    lines = [json.loads(line) for line in content.splitlines()]
    assert "".join(line["response"] for line in lines) == TEXT
    assert lines[-1]["done"] is True
    assert "alice-secret" not in system.server.stderr


def test_the_ollama_program_lists_models_and_is_told_that_it_cannot_pull(system):
    path = "/t/alice-secret"
    for method, route in (("GET", "/api/tags"), ("GET", "/api/ps"), ("GET", "/api/version")):
        connection, answer = system.open(method, path + route, headers={})
        body = json.loads(answer.read())
        connection.close()
        assert answer.status == 200
        if route == "/api/tags":
            # The program shows the first twelve characters, and crashes if there are fewer.
            assert len(body["models"][0]["digest"]) >= 12
    connection, answer = system.open("POST", path + "/api/show", {"model": "unknown"}, {})
    assert (answer.status, json.loads(answer.read())) == (
        404, {"error": "model 'unknown' not found"})
    connection.close()
    connection, answer = system.open("POST", path + "/api/pull", {"model": "unknown"}, {})
    assert answer.status == 403
    assert "error" in json.loads(answer.read())
    connection.close()


def test_a_wrong_token_in_the_path_is_refused(system):
    connection, answer = system.open("GET", "/t/wrong/api/tags", headers={})
    assert answer.status == 401
    assert "error" in json.loads(answer.read())
    connection.close()


@pytest.mark.parametrize("name", ["ollama chat", "openai chat", "anthropic"])
def test_a_client_lists_the_models(name, system, make_client):
    client = make_client(name, system.url).client
    listed = client.list().models if name == "ollama chat" else client.models.list().data
    names = [model.model if name == "ollama chat" else model.id for model in listed]
    assert names == [f"{MODEL}:latest"]


def test_clients_get_embeddings(system, make_client):
    vector = [0.25, -0.5, 1.0]
    ollama = make_client("ollama chat", system.url).client
    assert ollama.embed(MODEL, ["a", "b"]).embeddings == [vector, vector]
    assert ollama.embeddings(MODEL, "a").embedding == vector
    openai = make_client("openai chat", system.url).client
    assert openai.embeddings.create(model=MODEL, input="a").data[0].embedding == vector


def test_a_client_with_an_idempotency_key_may_hang_up_and_fetch_the_answer_later(
    system, make_client
):
    system.ollama.script(Script(hold_before=1))
    openai = make_client("openai chat", system.url).client
    request = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}],
               "extra_headers": {"Idempotency-Key": "mine"}}
    with openai.chat.completions.create(stream=True, **request) as stream:
        assert next(iter(stream))
    exchange = system.ollama.next_exchange()
    with openai.chat.completions.create(stream=True, **request) as stream:
        pieces = iter(stream)
        first = next(pieces)
        exchange.release()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in [first, *pieces])
    assert text == TEXT
    assert not exchange.hung_up.is_set()
    assert len(system.ollama.exchanges) == 1


def test_the_task_of_an_answer_can_be_looked_up_and_cancelled(system, make_client):
    system.ollama.script(Script(hold_before=1))
    openai = make_client("openai chat", system.url).client
    with openai.chat.completions.with_streaming_response.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True,
    ) as answer:
        task_id = answer.headers["X-Task-Id"]
        assert system.ask(f"/result/{task_id}")["state"] == "running"
        exchange = system.ollama.next_exchange()
        cancelled = ask(system.url, "DELETE", f"/result/{task_id}", headers=ALICE)
        assert cancelled.body["status"] == "Cancelled."
        exchange.wait_for_hang_up()
        assert b'"error"' in b"".join(answer.iter_bytes())
