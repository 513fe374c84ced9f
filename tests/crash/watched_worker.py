"""An LLM Server that tells the crash run what it does: its exchanges, and which tasks begin.

It sends each event to CRASH_WITNESS_URL before it goes on. It patches the worker's client and
stock, and knows nothing of the ledger.
"""
from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

import llm_server  # noqa: E402
from worker.protocol.client import ManageClient  # noqa: E402
from worker.stock.exchanger import Exchanger  # noqa: E402
from worker.stock.stock import Stock  # noqa: E402

WITNESS = urlsplit(os.environ["CRASH_WITNESS_URL"]).netloc


def tell(event: str, **fields: Any) -> None:
    """Send an event, and wait until it has been recorded."""
    connection = http.client.HTTPConnection(WITNESS, timeout=30)
    # The run may have ended.
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("POST", f"/{event}", json.dumps({**fields, "worker": os.getpid()}))
        connection.getresponse().read()


def patched(owner: Any, name: str) -> Any:
    """Decorate a function that is to be called, with the original before its arguments."""
    original = getattr(owner, name)

    def patch(function: Any) -> None:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        setattr(owner, name, wrapper)

    return patch


@patched(ManageClient, "exchange")
def exchange(original: Any, client: Any, body: bytes, *args: Any, **kwargs: Any) -> Any:
    request = json.loads(body.partition(b"\n")[0])
    asked_at = time.monotonic()
    tell("ask", request=request, asked_at=asked_at)
    answer = original(client, body, *args, **kwargs)
    tell("answer", request=request, asked_at=asked_at, answered_at=time.monotonic(),
         answer=answer.body)
    return answer


# The lock of the stock is held during these, so that events come in the order of what happens.

@patched(Stock, "take")
def take(original: Any, stock: Stock, *args: Any) -> Any:
    task = original(stock, *args)
    if task is not None:
        tell("take", lease_id=task.lease.lease_id, at=time.monotonic())
    return task


@patched(Stock, "apply")
def apply(original: Any, stock: Stock, request: Any, answer: Any, *args: Any) -> Any:
    lost = original(stock, request, answer, *args)
    tell("lose", lease_ids=[lease.lease_id for lease in (*request.running, *request.prefetched)
                            if lease.task_id in answer.lost])
    return lost


@patched(Exchanger, "begin_stop")
def begin_stop(original: Any, exchanger: Exchanger) -> None:
    with exchanger.changed:
        original(exchanger)
        tell("stop")


llm_server.main()
