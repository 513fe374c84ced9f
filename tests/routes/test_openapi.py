"""The OpenAPI document has every route and status and no others, and answers match it."""
from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import config
import manage_server
from manage.gateway.protocols import PROTOCOLS
from manage.parse.ollama_fields import CHAT_FIELDS, GENERATE_FIELDS, MESSAGE_FIELDS
from taskstore import Limits, MemoryStore
from taskstore.errors import StoreDown
from tests.attack.server import ALICE, GPU, TOKENS, running_server
from tests.support.processes import wait_until
from tests.support.stores import Call

DOCUMENT = Path(manage_server.__file__).with_name("openapi.yaml")
METHODS = {"get", "post", "delete", "put", "patch"}
SETTINGS = dataclasses.replace(
    config.Settings(), user_tokens=TOKENS["USER_TOKENS"], worker_tokens=TOKENS["WORKER_TOKENS"],
    max_request_bytes=1024, max_result_bytes=1024, max_queued_tasks=3, max_wait_seconds=0.0,
)
needs_schemathesis = pytest.mark.skipif(
    find_spec("schemathesis") is None and sys.version_info < (3, 10),
    reason="schemathesis has no current version for this Python",
)


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))


def documented_operations(document):
    return {(method, path): operation for path, item in document["paths"].items()
            for method, operation in item.items() if method in METHODS}


def test_the_document_has_every_route_and_no_other(document):
    app = manage_server.create_app(config.Settings())
    routes = {
        (method.lower(), re.sub("<(?:path:)?(.*?)>", r"{\1}", rule.rule)): rule.endpoint
        for rule in app.url_map.iter_rules() for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    documented = {key: operation["operationId"]
                  for key, operation in documented_operations(document).items()}
    assert documented == routes


def test_the_document_says_which_tokens_open_each_route(document):
    schemes = {"user": {"userToken", "userKey"}, "worker": {"workerToken", "workerKey"}}
    token_kinds = {kind: kinds for routes in manage_server.ALL_ROUTES
                   for kind, kinds in routes.token_kinds().items()}
    for operation in documented_operations(document).values():
        kinds = token_kinds[operation["operationId"]]
        named = set().union(*(security for security in operation["security"]))
        assert named == set().union(*(schemes[kind] for kind in kinds))


def test_the_document_has_every_field_of_a_submission(document):
    documented = document["components"]["schemas"]["Submission"]["properties"]
    others = {"prompt", "messages", "model", "background", "ttl_seconds", "timeout_seconds"}
    assert set(documented) == others | set(GENERATE_FIELDS) | set(CHAT_FIELDS)
    message = documented["messages"]["items"]["properties"]
    assert set(message) == set(MESSAGE_FIELDS)


def test_the_server_serves_the_document(document):
    client = manage_server.create_app(SETTINGS).test_client()
    answer = client.get("/openapi.yaml")
    assert (answer.status_code, answer.mimetype) == (200, "application/yaml")
    assert yaml.safe_load(answer.data) == document


class Down(MemoryStore):
    """A store that never answers."""

    def _refuse(self, *args, **more):
        raise StoreDown("The store is not answering.")

    submit = claim = append = get = read = cancel = status = finish = leave = renew = _refuse
    set_inventory = set_loaded = inventory_digest = inventories = _refuse
    list_tasks = usage = erase = _refuse


class Answers:
    """Sends requests, and records each answer with its method and its path in the document."""

    def __init__(self, paths):
        self.store = MemoryStore(Limits(max_queued_tasks_per_user=3))
        self.client = manage_server.create_app(SETTINGS, self.store).test_client()
        self.down = manage_server.create_app(SETTINGS, Down()).test_client()
        self.paths = paths
        self.recorded = []

    def ask(self, method, path, headers=None, client=None, **more):
        answer = (client or self.client).open(path, method=method, headers=headers, **more)
        plain = path.partition("?")[0]
        for documented in self.paths:
            if re.match(re.sub("{.*?}", "(?!(?:leave|claim|inventory)$)[^/]+", documented) + r"\Z",
                        plain):
                self.recorded.append((method.lower(), documented, answer))
        return answer

    def submit(self, **more):
        return self.ask("POST", "/submit", ALICE, json={"prompt": "hi", **more}).get_json()

    def claim(self):
        return self.ask("GET", "/task?worker=gpu", GPU).get_json()

    def claim_with_body(self, **more):
        return self.ask("POST", "/task/claim", GPU, json={"worker": "gpu", **more}).get_json()

    def relay(self, path, claim):
        """Have a worker answer a request."""
        asking = Call(lambda: self.ask("POST", path, ALICE, json={"model": "llama3"}))
        wait_until(lambda: self.store.status().queued, "the task is there")
        claimed = self.ask("POST", "/task/claim", GPU, json={"worker": "gpu", **claim})
        task = json.loads(claimed.data.partition(b"\n")[0])
        answer = f"/task/{task['task_id']}/answer?offset=0&lease_id="
        self.ask("POST", answer + "x", GPU)
        self.ask("POST", answer + task["lease_id"] + "&status=200&content_type=application/json"
                 "&done=true", GPU, data=b"{}")
        asking.result()

    def statuses(self):
        found = {}
        for method, path, answer in self.recorded:
            found.setdefault((method, path), set()).add(str(answer.status_code))
        return found


def record_answers(answers):
    answers.ask("GET", "/result/1", ALICE)
    answers.ask("GET", "/result/1/stream", ALICE)
    answers.ask("DELETE", "/result/1", ALICE)
    for _ in range(4):
        answers.submit()
    answers.claim_with_body(check=True)
    for claim in (answers.claim, answers.claim_with_body, answers.claim):
        task = claim()
        path = f"/result/{task['task_id']}"
        answers.ask("GET", path, ALICE)
        lease = {"lease_id": task["lease_id"]}
        answers.ask("POST", f"/task/{task['task_id']}/progress", GPU,
                    json={**lease, "offset": 0, "text": "so"})
        answers.ask("POST", f"/task/{task['task_id']}/progress", GPU, json=lease)
        answers.ask("GET", path, ALICE)
        how = {1: {"result": "42"}, 2: {"error": "No."},
               3: {"release": True, "error": "Busy."}}[task["task_id"]]
        answers.ask("POST", "/task", GPU, json={"task_id": task["task_id"], **lease, **how})
        answers.ask("GET", path, ALICE)
    answers.ask("DELETE", "/result/3", ALICE)
    for task_id in (1, 2, 3):
        answers.ask("GET", f"/result/{task_id}", ALICE)
        answers.ask("GET", f"/result/{task_id}/stream", ALICE)
        answers.ask("DELETE", f"/result/{task_id}", ALICE)
    record_exchanges(answers)
    answers.claim()
    answers.claim_with_body()
    answers.ask("POST", "/task/leave", GPU, json={"worker": "gpu"})
    record_gateway(answers)
    for path in ("/tasks", "/tasks?state=completed,queued&limit=1&before=3", "/usage?days=1"):
        answers.ask("GET", path, ALICE)
    for headers in (ALICE, GPU):
        answers.ask("GET", "/status", headers)
        answers.ask("GET", "/metrics", headers)


def record_exchanges(answers):
    worker = {"worker": "gpu", "instance": "a", "models": ["llama3", "x" * 300], "inventory": "d0"}
    answers.submit()
    answers.submit()
    body = answers.ask("POST", "/task/exchange", GPU, json={
        **worker, "idle": 1, "prefetch": 1}).get_json()
    run, next_one = ({key: task[key] for key in ("task_id", "lease_id")} for task in body["tasks"])
    answers.ask("POST", "/task/exchange", GPU, json={
        **worker, "outcomes": [{**run, "result": "So."}, {**run, "error": "No."}],
        "running": [next_one, run], "prefetched": [run]})
    answers.ask("POST", "/task/exchange", GPU, json={**worker, "outcomes": [
        {**run, "answer": {"status": 200, "content_type": "text/plain", "bytes": 0}}]})
    answers.ask("DELETE", f"/result/{next_one['task_id']}", ALICE)


def record_gateway(answers):
    answers.submit(prompt=None, messages=[{"role": "user", "content": "Why?"}])
    claim = {"relays": True, "models": ["llama3"], "inventory": "d1", "instance": "a"}
    chat = answers.claim_with_body(**claim)
    answers.ask("POST", "/task", GPU, json={
        "task_id": chat["task_id"], "lease_id": chat["lease_id"], "result": "So.",
        "message": {"role": "assistant", "content": "So."}, "thinking": "Hmm.",
        "metrics": {"eval_count": 2, "done_reason": "stop"}, "logprobs": [{"token": "So."}]})
    answers.ask("GET", f"/result/{chat['task_id']}", ALICE)
    answers.ask("POST", "/task/inventory", GPU, json={
        "worker": "gpu", "instance": "a", "digest": "d1", "inventory": {
            "version": "0.33.0", "models": [{"name": "llama3"}], "shows": {}}})
    for path in ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/v1/models/llama3"):
        answers.ask("GET", path, ALICE)
    answers.ask("GET", "/", {"Accept": "text/html"})
    answers.ask("GET", "/page/page.css")
    answers.ask("GET", "/page/page.js")
    answers.ask("POST", "/api/show", ALICE, json={"model": "llama3"})
    answers.ask("POST", "/api/show", ALICE, json={"model": "unknown"})
    answers.ask("GET", "/v1/models/unknown", ALICE)
    for path in PROTOCOLS:
        answers.relay(path, claim)
        answers.ask("POST", path, ALICE, json={"model": "unknown"})
        answers.ask("POST", path, {**ALICE, "Content-Encoding": "gzip"}, data=b"x")
    answers.ask("POST", "/task/99/answer?lease_id=x&offset=0", GPU)


def record_refusals(answers):
    key = {**ALICE, "Idempotency-Key": "1"}
    for prompt in ("a", "b"):
        answers.ask("POST", "/submit", key, json={"prompt": prompt})
    newest = answers.ask("GET", "/tasks?limit=1", ALICE).get_json()["tasks"][0]["task_id"]
    answers.ask("DELETE", f"/result/{newest}?only=erase", ALICE)
    answers.ask("POST", "/task", GPU, json={"task_id": 3, "lease_id": "x", "result": ""})
    answers.ask("POST", "/task", GPU, json={"task_id": 99, "result": ""})
    answers.ask("POST", "/task/99/progress", GPU, json={"lease_id": "x"})
    answers.ask("POST", "/task/3/progress", GPU, json={"lease_id": "x"})
    answers.ask("GET", "/task?wait=x", GPU)
    answers.ask("GET", "/result/1?wait=x", ALICE)
    answers.ask("GET", "/tasks?state=x", ALICE)
    answers.ask("GET", "/usage?days=x", ALICE)
    answers.ask("DELETE", "/result/1?only=x", ALICE)
    answers.ask("GET", "/result/1/stream", {**ALICE, "Last-Event-ID": "x"})
    many = {f"X-Header-{number}": "1" for number in range(200)}
    for method, path in documented_operations(yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))):
        path, who = re.sub("{.*?}", "1", path), GPU if re.match("/task(/|$)", path) else ALICE
        for headers in (None, {"X-API-Key": "wrong"}, ALICE, GPU, many,
                        {**who, "Origin": "http://evil.example"}):
            answers.ask(method.upper(), path, headers, data=b"")
        query = "?lease_id=x&offset=0" if path.endswith("/answer") else ""
        size_bytes = 2**22 if path in ("/task/inventory", "/task/exchange") else 2**20
        answers.ask(method.upper(), path + query, who, data=b" " * (size_bytes + 1))
        body = {"prompt": "hi", "task_id": 1, "lease_id": "x", "result": "", "worker": "x",
                "instance": "x", "digest": "x", "idle": 1}
        if path == "/task/inventory":
            body["inventory"] = {}
        if path in PROTOCOLS or path == "/api/show":
            body = {"model": "x"}
        query = "?lease_id=x&offset=0" if path.endswith("/answer") else ""
        answers.ask(method.upper(), path + query, who, client=answers.down, json=body)


@pytest.fixture(scope="module")
def answers(document):
    answers = Answers(document["paths"])
    record_answers(answers)
    record_refusals(answers)
    return answers


def test_the_document_has_every_status_and_no_other(document, answers):
    documented = {key: set(operation["responses"])
                  for key, operation in documented_operations(document).items()}
    recorded = answers.statuses()
    for (_, path), statuses in recorded.items():
        statuses.add("400")  # The server itself answers malformed HTTP.
        if path in PROTOCOLS:
            # The tests of the gateway have these.
            statuses |= {"409", "429", "499", "502"}
        if path == "/metrics":
            statuses |= {"200", "501"}
    assert recorded == documented


@needs_schemathesis
def test_every_answer_matches_the_document(answers):
    # Only here, because it takes long to import.
    import schemathesis

    schema = schemathesis.openapi.from_path(str(DOCUMENT))
    schema.validate()
    for method, path, answer in answers.recorded:
        schema[path][method.upper()].validate_response(answer)


CONFIGURATION = """
seed = 1
[generation]
deterministic = true
database = "none"
codec = "ascii"
allow-x00 = false
max-examples = 10
[[operations]]
include-tag = "gateway"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]
[[operations]]
include-path = "/metrics"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 503]
[auth.openapi]
userToken = {bearer = "alice-secret"}
userKey = {api_key = "alice-secret"}
workerToken = {bearer = "gpu-1-secret"}
workerKey = {api_key = "gpu-1-secret"}
"""


@needs_schemathesis
@pytest.mark.timeout(600)
def test_schemathesis_finds_no_fault_in_a_running_server(tmp_path, document):
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with running_server(max_wait_seconds=0) as server:
        start = "from schemathesis.cli import schemathesis; schemathesis()"
        run = subprocess.run(
            [sys.executable, "-c", start, "--config-file", "schemathesis.toml", "run",
             str(DOCUMENT), "--url", server.url, "--no-color", "--warnings", "off"],
            cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, timeout=500,
        )
    assert run.returncode == 0, run.stdout
    assert f"{len(documented_operations(document))} selected" in run.stdout
