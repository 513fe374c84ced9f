"""Relayed tasks: the request goes to Ollama, and the answer to the Manage Server, byte by byte."""
from __future__ import annotations

from typing import Any, Callable

from tests.support.running_worker import RunningWorker
from tests.support.stub_server import SOON_SECONDS
from tests.support.worker_stubs import StubManageServer, StubOllama

BODY = b'{"model": "llama3",  "messages": [], "stream":true}'
MakeWorker = Callable[..., RunningWorker]


def wait_for(manage: StubManageServer, content: bytes, task_id: int = 1) -> None:
    manage.wait_until(lambda: manage.relayed.get(task_id) == content)


def next_part(manage: StubManageServer) -> Any:
    return manage.parts.get(timeout=SOON_SECONDS)


def test_a_relayed_stream_comes_back_byte_by_byte_while_it_is_written(
    worker: RunningWorker, ollama: StubOllama, manage: StubManageServer
) -> None:
    manage.submit_relayed(BODY)
    call = ollama.next_call()
    assert (call.path, call.body) == ("/api/chat", BODY)
    call.write(b'{"message": {"cont')
    wait_for(manage, b'{"message": {"cont')
    assert next_part(manage) == {
        "lease_id": "lease-1", "offset": "0", "status": "200", "size": 18,
        "content_type": "application/x-ndjson"}
    call.write(b'ent": "\xc3')
    wait_for(manage, b'{"message": {"content": "\xc3')
    call.write(b'\xbc"}}\n')
    call.end()
    manage.wait_until(lambda: len(manage.claims) == 2)
    assert manage.relayed[1] == b'{"message": {"content": "\xc3\xbc"}}\n'
    assert manage.outcomes.empty()
