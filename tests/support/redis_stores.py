"""Stores in Redis that wait, die, or lose an answer at the moment a test chooses."""
from __future__ import annotations

import threading
from typing import Any, Callable, List

from tests.support.stores import GUARD_SECONDS, LONG_WAIT_SECONDS, Call, claim


def asleep(call: Callable[[], Any]) -> Call:
    """A call that runs in the background and waits."""
    thread = Call(call)
    thread.wait_until_asleep()
    return thread


def waiting_claim(store: Any, worker: str = "waiting", **how: Any) -> Callable[[], Any]:
    return lambda: claim(store, worker, lease_seconds=600.0, wait_seconds=LONG_WAIT_SECONDS, **how)


def listening(store: Any) -> Any:
    """The store, once its thread has subscribed and handles messages."""
    client, channel = store._connection._client, store._connection.channel
    store._notifications.start()
    handled(store, "d", lambda: client.publish(channel, "d"))
    return store


def caught_up(store: Any) -> Any:
    """The store, which listens, once its thread has handled all messages that were sent before."""
    client, channel = store._connection._client, store._connection.channel
    handled(store, "caught up", lambda: client.publish(channel, "caught up"))
    return store


def handled(store: Any, sign: str, do: Callable[[], Any]) -> None:
    """Do something, and wait until the thread has handled a message that begins with `sign`."""
    done, handle = threading.Event(), store._notifications._handle

    def observed(messages: Any, is_tick: bool) -> None:
        handle(messages, is_tick)
        if any(message.startswith(sign.encode()) for message in messages):
            done.set()

    store._notifications._handle = observed
    do()
    assert done.wait(GUARD_SECONDS)
    store._notifications._handle = handle


def lose_answer(
    store: Any, script: str, monkeypatch: Any, meanwhile: Callable[[], Any] = lambda: None
) -> None:
    """Lose the next answer of a script, which runs nevertheless; `meanwhile` is called before the
    script runs again."""
    import redis

    evaluate, is_lost = store._connection._eval, threading.Event()

    def losing(sha_and_text: Any, args: Any) -> Any:
        answer = evaluate(sha_and_text, args)
        if sha_and_text == store._connection._scripts[script] and not is_lost.is_set():
            is_lost.set()
            meanwhile()
            raise redis.ConnectionError("The answer was lost.")
        return answer

    monkeypatch.setattr(store._connection, "_eval", losing)


def before_answer(store: Any, script: str, monkeypatch: Any, do: Callable[[], Any]) -> None:
    """Have `do` called once, after a script has run and before the store has its answer."""
    run = store._connection.run

    def slow(name: str, *args: Any) -> Any:
        answer = run(name, *args)
        if name == script:
            monkeypatch.setattr(store._connection, "run", run)
            do()
        return answer

    monkeypatch.setattr(store._connection, "run", slow)


def die_before(store: Any, script: str, monkeypatch: Any) -> None:
    """Let the store's process die when it is about to run a script."""
    run = store._connection.run

    def dying(name: str, *args: Any, **options: Any) -> Any:
        if name == script:
            raise KeyboardInterrupt
        return run(name, *args, **options)

    monkeypatch.setattr(store._connection, "run", dying)


def connections_named(client: Any, name: str) -> List[Any]:
    """The connections of a store that was opened with `?client_name=`."""
    return [connection for connection in client.client_list() if connection["name"] == name]
