"""Requests to a model in the formats of Ollama, OpenAI and Anthropic: each becomes a task."""
from __future__ import annotations

import contextlib
from typing import Callable, Generator

from manage.answers import RELAYED_TASK_ID
from manage.auth.tokens import USER_TOKEN
from manage.context import Context
from manage.errors import TooManyRequests, UnsupportedEncoding
from manage.gateway.answer import RelayedAnswer
from manage.gateway.clients import Client
from manage.gateway.follow import Follower
from manage.gateway.peek import Call, peek
from manage.gateway.protocols import PROTOCOLS
from manage.parse import relays as parse
from manage.parse.tasks import idempotency_key
from manage.serving.connections import disconnect_check
from manage.wsgi import Later, WsgiAnswer, WsgiRequest
from taskstore import Cursor, Submission, Update
from taskstore.task import FINAL

from .pauses import watching_task
from .registry import Route, Routes

# A place among the held requests is taken for as long as the answer takes, and not for this time.
ANY_SECONDS = 1.0

routes = Routes()


def relay(context: Context, sent: WsgiRequest) -> Later:
    protocol, owner = PROTOCOLS[sent.path], sent.caller
    if (sent.header("Content-Encoding") or "identity").strip().lower() != "identity":
        raise UnsupportedEncoding()
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(context.held_requests.hold(ANY_SECONDS, owner)):
            raise TooManyRequests()
        with context.bodies.relayed(
            sent.body, lambda body: peek(body, protocol)
        ) as (body, call):
            client = context.clients.submit(_submission(context, sent, call, body))
            stack.callback(context.clients.leave, client)
            task_id = sent.environ[RELAYED_TASK_ID] = client.task_id
            # The client may wait for hours, and the store has the body now.
            del body
        relayed = RelayedAnswer(_follow(context, client, sent), protocol, call)
        watching = watching_task(context, sent.environ, task_id)
        if watching is not None:
            stack.enter_context(watching)
            relayed.may_pause = True
        close = stack.pop_all().close
        return Later(_answer(relayed, task_id, close), close)


def _submission(context: Context, sent: WsgiRequest, call: Call, body: bytes) -> Submission:
    relay = parse.relay(sent.path, sent.query, sent.environ, call.is_stream)
    key = idempotency_key(sent.header("Idempotency-Key") or "")
    retry = parse.retry_key(relay, body, sent.header("X-Stainless-Retry-Count") or "")
    settings = context.settings
    return Submission(
        call.model, body, sent.caller, ttl_seconds=settings.task_ttl_seconds,
        timeout_seconds=settings.task_timeout_seconds, key=key or retry.key, is_plain=False,
        relay=relay, server="" if key else context.store.server_id,
        may_join=bool(key) or retry.may_join, needs_worker=True,
        summary=call.summary,
    )


def _follow(context: Context, client: Client, sent: WsgiRequest) -> Follower:
    owner = sent.caller

    def read(cursor: Cursor, wait_seconds: float) -> Update:
        update = context.store.read(client.task_id, cursor, wait_seconds, owner)
        client.is_answered = update.snapshot.task.state in FINAL
        return update

    return Follower(read, disconnect_check(sent.environ), lambda: context.store.is_stopping)


def _answer(
    relayed: RelayedAnswer, task_id: int, close: Callable[[], None]
) -> Generator[bytes, None, WsgiAnswer]:
    answer = yield from relayed.begin()
    header = ("X-Task-Id", str(task_id))
    if isinstance(answer.body, bytes):
        # The client may keep its connection, and come again before this is closed.
        close()
        return WsgiAnswer([answer.body], answer.content_type, answer.status, (header,))
    # Otherwise nginx buffers the stream.
    headers = (header, ("X-Accel-Buffering", "no"))
    return WsgiAnswer(answer.body, answer.content_type, answer.status, headers)


for _path, _name in {
    "/api/generate": "ollama_generate",
    "/api/chat": "ollama_chat",
    "/api/embed": "ollama_embed",
    "/api/embeddings": "ollama_embeddings",
    "/v1/chat/completions": "openai_chat_completions",
    "/v1/completions": "openai_completions",
    "/v1/embeddings": "openai_embeddings",
    "/v1/responses": "openai_responses",
    "/v1/messages": "anthropic_messages",
}.items():
    routes.add(Route("POST", _path, relay, USER_TOKEN, _name, writes=True, is_direct=True,
                     is_at_once=True))
