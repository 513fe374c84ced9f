"""Requests to a model in the formats of Ollama, OpenAI and Anthropic: each becomes a task."""
from __future__ import annotations

import contextlib
from typing import Callable

from flask import Response, g, request

from manage.auth.tokens import USER_TOKEN
from manage.context import Context
from manage.errors import TooManyRequests, UnsupportedEncoding
from manage.gateway.answer import Answer, RelayedAnswer
from manage.gateway.clients import Client
from manage.gateway.follow import Follower
from manage.gateway.peek import Call, peek
from manage.gateway.protocols import PROTOCOLS
from manage.parse import relays as parse
from manage.parse.tasks import idempotency_key
from manage.serving.connections import allow_pauses, disconnect_check
from taskstore import Cursor, Submission, Update
from taskstore.task import FINAL

from .registry import Route, Routes

# A place among the held requests is taken for as long as the answer takes, and not for this time.
ANY_SECONDS = 1.0

routes = Routes()


def relay(context: Context) -> Response:
    protocol, owner = PROTOCOLS[request.path], g.caller
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedEncoding()
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(context.held_requests.hold(ANY_SECONDS, owner)):
            raise TooManyRequests()
        with context.bodies.relayed(
            request.stream, lambda body: peek(body, protocol)
        ) as (body, call):
            waiting = context.clients.submit(_submission(context, call, body))
            client = stack.enter_context(waiting)
            g.relayed_task_id = task_id = client.task_id
            # The client may wait for hours, and the store has the body now.
            del body, waiting
        follower = _follow(context, client)
        relayed = RelayedAnswer(follower, protocol, call)
        answer = relayed.begin()
        if not isinstance(answer.body, bytes) and context.store.never_waits:
            resume = allow_pauses(request.environ)
            if resume is not None:
                stack.enter_context(context.store.watch(task_id, resume))
                relayed.may_pause = True
        return _response(answer, task_id, stack.pop_all().close)


def _submission(context: Context, call: Call, body: bytes) -> Submission:
    relay = parse.relay(request.path, request.query_string.decode("latin-1"), request.headers.get,
                        call.is_stream)
    key = idempotency_key(request.headers.get("Idempotency-Key", ""))
    retry = parse.retry_key(relay, body, request.headers.get("X-Stainless-Retry-Count", ""))
    settings = context.settings
    return Submission(
        call.model, body, g.caller, ttl_seconds=settings.task_ttl_seconds,
        timeout_seconds=settings.task_timeout_seconds, key=key or retry.key, is_plain=False,
        relay=relay, server="" if key else context.store.server_id,
        may_join=bool(key) or retry.may_join, needs_worker=True,
        summary=call.summary,
    )


def _follow(context: Context, client: Client) -> Follower:
    owner = g.caller

    def read(cursor: Cursor, wait_seconds: float) -> Update:
        update = context.store.read(client.task_id, cursor, wait_seconds, owner)
        client.is_answered = update.snapshot.task.state in FINAL
        return update

    return Follower(read, disconnect_check(request.environ), lambda: context.store.is_stopping)


def _response(answer: Answer, task_id: int, on_close: Callable[[], None]) -> Response:
    response = Response(answer.body, answer.status, content_type=answer.content_type)
    response.headers["X-Task-Id"] = str(task_id)
    if isinstance(answer.body, bytes):
        on_close()
        return response
    # Otherwise nginx buffers the stream.
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(on_close)
    return response


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
    routes.add(Route("POST", _path, relay, USER_TOKEN, _name, writes=True))
