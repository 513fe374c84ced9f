"""The loop of waitress looks only at connections to which something has happened."""
from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
from urllib.parse import urlsplit

import pytest

pytest.importorskip("waitress")
if not hasattr(select, "poll"):
    pytest.skip("this platform has no poll()", allow_module_level=True)

from manage.serving.waitress_loop import Connections, _Loop, awaited_events, serving
from tests.support.processes import Process

pytestmark = pytest.mark.timeout(60)

READING = select.POLLIN | select.POLLPRI

# The answer is how often a thread has woken the loop.
SERVER = """
import json
import waitress.trigger
from manage.serving.serve import Options, serve

pulled = []
pull = waitress.trigger.trigger.pull_trigger
waitress.trigger.trigger.pull_trigger = lambda self, *more: pulled.append(1) or pull(self, *more)

def app(environ, start_response):
    body = json.dumps(len(pulled)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

serve(app, Options("127.0.0.1", 0, 8, 1000), lambda: None)
"""


class Connection:
    """What the loop uses of a connection; it counts how often it is looked at."""

    accepting = False
    awaited = None

    def __init__(self, connections):
        self.socket, self.other = socket.socketpair()
        self.looks = 0
        self.wants = True
        self.on_event = lambda: None
        connections[self.socket.fileno()] = self

    def readable(self):
        self.looks += 1
        return self.wants

    def writable(self):
        return False

    def handle_events(self, events):
        self.socket.recv(1)
        self.on_event()

    def close(self):
        self.socket.close()
        self.other.close()


class Listener(Connection):
    """The loop takes what is open when it begins for what listens."""

    def handle_read_event(self):
        self.handle_events(select.POLLIN)


@pytest.fixture
def connections():
    opened = Connections()
    everything = []
    yield opened, everything
    for connection in everything:
        connection.close()


def run_loop(opened, first):
    """Run the loop until nothing is open; `first` is done by it."""
    listener = Listener(opened)
    listener.on_event = first
    listener.other.send(b"x")
    with contextlib.closing(listener):
        _Loop(opened).run(10)


def test_connections_without_events_are_looked_at_once(connections):
    opened, everything = connections
    heard = []

    def begin():
        everything.extend(Connection(opened) for _ in range(20))
        everything[0].on_event = hear
        everything[0].other.send(b"x" * 10)

    def hear():
        heard.append(1)
        if len(heard) == 10:
            for fd in list(opened):
                del opened[fd]

    run_loop(opened, begin)
    assert [connection.looks for connection in everything[1:]] == [1] * 19


class Changing(Connection):
    """When it is looked at for the first time, a thread changes what it waits for."""

    def readable(self):
        wants = super().readable() and self.looks > 1
        if self.looks == 1:
            self.thread = threading.Thread(target=self._change)
            self.thread.start()
        return wants

    def _change(self):
        with serving(self):
            self.has_woken = self.connections.note_change()
        self.wake()


def test_a_connection_that_a_thread_has_changed_is_looked_at(connections):
    opened, everything = connections
    wake = Listener(opened)
    everything.append(wake)

    def begin():
        connection = Changing(opened)
        everything.append(connection)
        connection.connections = opened
        connection.wake = lambda: wake.other.send(b"x")
        connection.on_event = end
        connection.other.send(b"x")

    def end():
        for fd in list(opened):
            del opened[fd]

    run_loop(opened, begin)
    everything[1].thread.join()
    assert everything[1].has_woken


def test_a_change_of_nothing_that_the_loop_waits_for_does_not_wake_it(connections):
    opened, everything = connections
    connection = Connection(opened)
    everything.append(connection)
    opened.changed.clear()
    with serving(connection):
        connection.awaited = READING
        assert awaited_events(connection) == READING
        assert not opened.note_change() and not opened.changed
        # The loop is looking at it.
        connection.awaited = None
        assert opened.note_change()
        connection.awaited = READING
        connection.wants = False
        assert opened.note_change()
    assert list(opened.changed) == [connection.socket.fileno()] * 2


def test_a_closed_connection_is_forgotten_before_another_has_its_number(connections):
    opened, everything = connections
    numbers = []

    def begin():
        first = Connection(opened)
        everything.append(first)
        first.on_event = replace
        first.other.send(b"x")

    def replace():
        number = everything[0].socket.fileno()
        del opened[number]
        everything[0].close()
        second = Connection(opened)
        numbers.extend([number, second.socket.fileno()])
        everything.append(second)
        second.on_event = end
        second.other.send(b"x")

    def end():
        for fd in list(opened):
            del opened[fd]

    run_loop(opened, begin)
    assert numbers[0] == numbers[1]


def test_requests_on_a_kept_connection_do_not_wake_the_loop_when_they_end(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with Process(str(script)) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url()).netloc)
        with contextlib.closing(connection):
            pulls = []
            for _ in range(40):
                connection.request("GET", "/")
                pulls.append(json.loads(connection.getresponse().read()))
    # Now and then, the loop looks in the moment in which the request ends.
    assert pulls[-1] - pulls[0] < 20
