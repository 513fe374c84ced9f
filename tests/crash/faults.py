"""What can break in a run, and how it is mended; each blow is counted when it falls."""
from __future__ import annotations

from collections import Counter
from typing import Any, Callable, List, NamedTuple, Sequence

from tests.crash.programs import Keeper
from tests.support.proxy import Proxy

TO_USERS = (b"Task submitted.", b'"result":')
TO_WORKERS = (b"Result received.",)
AS_SAID = "as something was acknowledged"
AT_RANDOM = "at a random moment"
ACKNOWLEDGED_WITHIN_SECONDS = 1.0
LOST_AT_ONCE = 5


def nothing() -> None:
    pass


class Blow(NamedTuple):
    strike: Callable[[], None]
    mend: Callable[[], None] = nothing
    """What is killed starts again by itself, and needs none."""


def on_servers(servers: Sequence[Keeper], worker: Keeper, proxies: Sequence[Proxy]) -> List[Blow]:
    def kill_servers() -> None:
        for server in servers:
            server.kill(AS_SAID)

    def kill_all() -> None:
        for keeper in (*servers, worker):
            keeper.kill(AT_RANDOM)

    def kill(keeper: Keeper) -> Blow:
        return Blow(lambda: keeper.kill(AT_RANDOM))

    return [
        *(4 // len(servers) * list(map(kill, servers))),
        *(2 * _as_said(proxies, kill_servers)),
        *(3 * [kill(worker)]),
        Blow(kill_all),
    ]


def on_redis(redis: Any, proxies: Sequence[Proxy], counts: Counter) -> List[Blow]:
    def kill(when: str) -> Callable[[], None]:
        return _counted(counts, f"Redis killed {when}", redis.kill)

    return [
        *(2 * [Blow(kill(AT_RANDOM), redis.start)]),
        *(blow._replace(mend=redis.start) for blow in _as_said(proxies, kill(AS_SAID))),
    ]


def on_network(whom: str, proxy: Proxy, counts: Counter) -> List[Blow]:
    def lose(what: str) -> Blow:
        name = f"{what}s of {whom} lost"
        return Blow(_counted(counts, name, lambda: proxy.lose(what, LOST_AT_ONCE)), proxy.mend)

    return [
        Blow(_counted(counts, f"network to {whom} cut", proxy.cut)),
        Blow(_counted(counts, f"network to {whom} stalled", proxy.stall), proxy.mend),
        lose("request"),
        lose("answer"),
    ]


def _as_said(proxies: Sequence[Proxy], kill: Callable[[], None]) -> List[Blow]:
    """Kill as something is acknowledged: what is not kept by then never will be."""

    def blow(proxy: Proxy, text: bytes) -> Blow:
        def strike() -> None:
            if not proxy.call_as(text, kill, ACKNOWLEDGED_WITHIN_SECONDS):
                kill()

        return Blow(strike)

    users, workers = proxies
    return [*(blow(users, text) for text in TO_USERS),
            *(blow(workers, text) for text in TO_WORKERS)]


def _counted(counts: Counter, name: str, strike: Callable[[], None]) -> Callable[[], None]:
    def counted() -> None:
        counts[name] += 1
        strike()

    return counted
