"""The faults that a crash run injects, and their repairs. Each one is counted when it happens."""
from __future__ import annotations

from collections import Counter
from typing import Any, Callable, List, NamedTuple, Sequence

from tests.crash.ledger import Ledger
from tests.crash.programs import Supervisor
from tests.support.proxy import ANSWER, REQUEST, Proxy

SENT_TO_USERS = (b"Task submitted.", b'"result":')
SENT_TO_WORKERS = (b"Result received.",)
AT_ACKNOWLEDGEMENT = "while acknowledging something"
WITH_TASK_IN_HAND = "with a task in hand"
AT_RANDOM = "at a random moment"
PREFETCH_TIMEOUT_SECONDS = 1.0
ACKNOWLEDGEMENT_TIMEOUT_SECONDS = 1.0
CHUNKS_LOST = 5


def nothing() -> None:
    pass


class Fault(NamedTuple):
    inject: Callable[[], None]
    # A killed program needs no repair, because its supervisor restarts it.
    repair: Callable[[], None] = nothing


def worker_faults(worker: Supervisor, ledger: Ledger) -> List[Fault]:
    def stop() -> None:
        ledger.wait_until_prefetched(worker.pid, PREFETCH_TIMEOUT_SECONDS)
        worker.stop()

    def kill() -> None:
        ledger.wait_until_prefetched(worker.pid, PREFETCH_TIMEOUT_SECONDS)
        worker.kill(WITH_TASK_IN_HAND)

    return [
        *(2 * [Fault(lambda: worker.kill(AT_RANDOM))]),
        *(2 * [Fault(kill)]),
        *(2 * [Fault(stop)]),
    ]


def server_faults(
    servers: Sequence[Supervisor], worker: Supervisor, proxies: Sequence[Proxy]
) -> List[Fault]:
    def kill_servers() -> None:
        for server in servers:
            server.kill(AT_ACKNOWLEDGEMENT)

    def kill_all() -> None:
        for supervisor in (*servers, worker):
            supervisor.kill(AT_RANDOM)

    def kill(supervisor: Supervisor) -> Fault:
        return Fault(lambda: supervisor.kill(AT_RANDOM))

    return [
        *(4 // len(servers) * list(map(kill, servers))),
        *(2 * _at_acknowledgements(proxies, kill_servers)),
        Fault(kill_all),
    ]


def redis_faults(redis: Any, proxies: Sequence[Proxy], counts: Counter) -> List[Fault]:
    def kill(when: str) -> Callable[[], None]:
        return _counted(counts, f"Redis killed {when}", redis.kill)

    return [
        *(2 * [Fault(kill(AT_RANDOM), redis.start)]),
        *(fault._replace(repair=redis.start)
          for fault in _at_acknowledgements(proxies, kill(AT_ACKNOWLEDGEMENT))),
    ]


def network_faults(peer: str, proxy: Proxy, counts: Counter) -> List[Fault]:
    """`peer` is what the counts call the other side of the network."""

    def lose(direction: str) -> Fault:
        name = f"{direction}s lost in the network to {peer}"
        inject = _counted(counts, name, lambda: proxy.lose(direction, CHUNKS_LOST))
        return Fault(inject, proxy.restore)

    return [
        Fault(_counted(counts, f"network to {peer} cut", proxy.cut)),
        Fault(_counted(counts, f"network to {peer} stalled", proxy.stall), proxy.restore),
        lose(REQUEST),
        lose(ANSWER),
    ]


def _at_acknowledgements(proxies: Sequence[Proxy], kill: Callable[[], None]) -> List[Fault]:
    """Kill just before an acknowledgement arrives; what is not stored by then never will be."""

    def fault(proxy: Proxy, text: bytes) -> Fault:
        def inject() -> None:
            if not proxy.call_before(text, kill, ACKNOWLEDGEMENT_TIMEOUT_SECONDS):
                kill()

        return Fault(inject)

    users, workers = proxies
    return [*(fault(users, text) for text in SENT_TO_USERS),
            *(fault(workers, text) for text in SENT_TO_WORKERS)]


def _counted(counts: Counter, name: str, inject: Callable[[], None]) -> Callable[[], None]:
    def counted() -> None:
        counts[name] += 1
        inject()

    return counted
