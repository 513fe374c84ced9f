"""GET /result/<id>/stream over HTTP: many readers, and readers that stop reading or disconnect."""
from __future__ import annotations

import contextlib
import http.client
import signal
import socket
from urllib.parse import urlsplit

import pytest

from tests.support.processes import TIMEOUT_SECONDS, Process, wait_until, wait_until_held
from tests.support.sse import Comment, Event, Transcript, events
from tests.support.stores import Call
from tests.support.streaming_server import Reader, StreamingServer

pytestmark = pytest.mark.timeout(300)

SCRIPT = """
import sys

import manage.serving.flask_server
import manage.stream.follow
import manage_server

manage.stream.follow.KEEP_ALIVE_SECONDS = float(sys.argv[1])
manage.serving.flask_server.GRACE_SECONDS = float(sys.argv[2])
manage_server.main(["--manage-port", "0", *sys.argv[3:]])
"""
NEVER_SECONDS = 100_000
MANY = 100


@pytest.fixture(scope="module")
def start_process(environ, tmp_path_factory):
    """A function that starts a server, which runs until the end of all these tests."""
    script = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(SCRIPT)
    with contextlib.ExitStack() as stack:
        def start(keep_alive_seconds=NEVER_SECONDS, *flags, grace_seconds=60):
            times = [str(keep_alive_seconds), str(grace_seconds)]
            return stack.enter_context(Process(str(script), *times, *flags, environ=environ))

        yield start


@pytest.fixture
def start_server(start_process):
    """A function that starts a server."""
    return lambda *args, **more: StreamingServer(start_process(*args, **more))


@pytest.fixture(scope="module")
def shared_process(start_process):
    return start_process()


@pytest.fixture
def server(shared_process):
    """A server with a task, for tests that do not stop it."""
    server = StreamingServer(shared_process)
    server.start_task()
    yield server
    server.ask("DELETE", server.path)


@pytest.fixture(scope="module")
def small_process(start_process):
    return start_process(0.05, "--manage-threads", "4")


@pytest.fixture
def small_server(small_process):
    """A server with a task that holds two readers, and often has a comment for them."""
    server = StreamingServer(small_process)
    server.start_task()
    # Readers of an earlier test may still be there.
    wait_until_held(server.url, 0)
    yield server
    server.ask("DELETE", server.path)


@pytest.fixture
def read():
    """A function that opens a reader, and closes it at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(
            contextlib.closing(Reader(*args, **more)))


def test_a_hundred_readers_of_one_task_all_get_everything(server, read):
    calls = []
    for _ in range(MANY):
        reader = read(server)
        reader.next_event("attempt")
        calls.append(Call(reader.read_to_the_end))
    words = [f"{number} \U0001f600 " for number in range(50)]
    for word in words:
        server.send(word)
    server.finish(result="".join(words) + "end")
    for call in calls:
        transcript = call.result()
        assert (transcript.text, transcript.last.name) == ("".join(words) + "end", "completed")


def test_a_quiet_stream_is_kept_alive_with_comments(small_server, read):
    reader = read(small_server)
    reader.next_event("attempt")
    assert [next(reader.items) for _ in range(3)] == [Comment("still here")] * 3


def test_a_reader_that_reconnects_again_and_again_gets_every_character_once(server, read):
    transcript = Transcript()
    for number in range(20):
        server.send(f"{number} e\u0301\U0001f600 ")
        reader = read(server, transcript.last_id)
        transcript.add(reader.next_event("message"))
        reader.close()
    assert transcript.text == "".join(f"{number} e\u0301\U0001f600 " for number in range(20))


def test_a_cancel_ends_a_stream_at_once(server, read):
    reader = read(server)
    reader.next_event("attempt")
    server.ask("DELETE", server.path)
    assert reader.read_to_the_end().last.name == "cancelled"


def test_another_attempt_is_an_event_at_once(server, read):
    server.send("Be")
    reader = read(server)
    reader.next_event("message")
    server.finish(release=True)
    assert reader.next_event("queued").data["queue_position"] == 1
    server.claim()
    assert reader.next_event("attempt").data == {"attempt": 1}
    server.send("No")
    assert reader.next_event("message").last_id == "2@2"


def test_when_no_more_can_be_held_a_stream_sends_what_there_is_and_ends(small_server, read):
    server = small_server
    server.send("Be")
    assert all(read(server).is_held() for _ in range(2))
    transcript = read(server).read_to_the_end()
    assert (transcript.text, transcript.last.name) == ("Be", "message")
    server.send("cause")
    assert read(server, transcript.last_id).read_to_the_end().text == "cause"


def held_reader(server):
    """A reader that is held; None if there is no room, and then its connection is closed."""
    reader = Reader(server)
    if reader.is_held():
        return reader
    reader.close()
    return None


def wait_for_room(server, readers):
    def open_one():
        reader = held_reader(server)
        readers.extend([reader] * (reader is not None))
        return reader is not None

    wait_until(open_one, "there is room for a reader")


def test_a_reader_that_disconnects_makes_room_for_another(small_server):
    for _ in range(5):
        readers = []
        for _ in range(2):
            wait_for_room(small_server, readers)
        for reader in readers:
            reader.close()


def stuck_reader(server):
    """A connection that requests the stream and reads nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    where = urlsplit(server.url)
    connection.connect((where.hostname, where.port))
    connection.sendall(b"GET /result/1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def test_a_reader_that_stops_reading_delays_nobody(start_server, read):
    server = start_server(grace_seconds=0.1)
    server.start_task()
    # In JSON it is six times as long: more than any server buffers for a reader.
    piece = "\x01" * 100_000
    with stuck_reader(server):
        events = (item for item in read(server).items if isinstance(item, Event))

        def read_all():
            transcript = Transcript()
            while len(transcript.text) < 40 * len(piece):
                transcript.add(next(events))
            return transcript

        call = Call(read_all)
        for _ in range(40):
            server.send(piece)
        assert call.result().text == piece * 40
        server.ask("DELETE", server.path)
        assert next(events).name == "cancelled"
        server.process.signal(signal.SIGTERM)
        assert server.process.exit_code() == 0


def test_sigterm_ends_every_stream_properly(start_server, read):
    server = start_server()
    server.start_task()
    readers = [read(server) for _ in range(10)]
    for reader in readers:
        reader.next_event("attempt")
    # read() raises IncompleteRead if an answer is cut off.
    calls = [Call(reader.response.read) for reader in readers]
    server.process.signal(signal.SIGTERM)
    assert {call.result() for call in calls} <= {b"", b": still here\n\n"}
    assert server.process.exit_code() == 0
    assert "Traceback" not in server.process.stderr


def test_the_stream_of_a_finished_task_leaves_the_connection_usable(server):
    server.finish(result="Because")
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT_SECONDS)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("GET", server.path + "/stream")
            body = connection.getresponse().read()
            assert [event.name for event in events(body.splitlines(keepends=True))] == [
                "attempt", "message", "completed"]
