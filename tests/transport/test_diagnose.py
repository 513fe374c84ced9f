"""Everything that can be wrong between two machines, each with its own cause and its own advice."""
from __future__ import annotations

import socket
import ssl

import pytest
import requests
import urllib3

from tests.transport.conftest import answer_with, http_answer, make_peer, read_request
from transport import no_answer as causes
from transport.answers import describe_stranger, parse_answer
from transport.diagnose import diagnose
from transport.environment import SetupError, find_proxies
from transport.no_answer import NoAnswer
from transport.sessions import Call


@pytest.fixture
def failure(connect):
    """Sends a request that fails, and returns the NoAnswer."""
    def send(url, seconds=60):
        with pytest.raises(NoAnswer) as raised:
            connect(url).request(Call("GET", "/status", seconds))
        assert "\n" not in str(raised.value)
        return raised.value
    return send


def test_an_unknown_name(failure):
    error = failure("http://nowhere.invalid")
    assert error.cause == causes.NAME
    assert "the name nowhere.invalid" in str(error)


def test_a_port_on_which_nothing_listens(failure):
    error = failure("http://127.0.0.1:1")
    assert error.cause == causes.REFUSED
    assert "Is `python manage_server.py` running there" in str(error)


@pytest.mark.parametrize("cause", [
    urllib3.exceptions.ConnectTimeoutError(None, "timed out"),
    OSError(113, "No route to host"), OSError(101, "Network is unreachable"),
])
def test_an_address_that_nothing_answers_at(cause):
    error = diagnose(requests.ConnectionError(cause), make_peer("http://192.0.2.1"))
    assert error.cause == causes.UNREACHABLE and "192.0.2.1" in str(error)


def test_no_name_server():
    cause = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    error = diagnose(requests.ConnectionError(cause), make_peer("http://tasks.test"))
    assert error.cause == causes.NAME and "Is this machine online?" in str(error)


# TLS


def close_at_once(connection):
    connection.recv(65536)


def wait_for_more(connection):
    while connection.recv(65536):
        pass


def test_plain_http_to_a_port_that_speaks_tls(serve, failure, make_certificate):
    server = serve(answer_with(http_answer()), make_certificate())
    error = failure(f"http://127.0.0.1:{server.port}")
    assert error.cause == causes.TLS
    assert "speaks TLS" in str(error) and "Begin MANAGE_SERVER_URL with https://" in str(error)


def test_plain_http_to_a_port_that_answers_400_because_it_speaks_tls(
    serve, connect, make_certificate
):
    """As nginx, Apache and Go do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(make_certificate()))

    def answer(connection):
        if connection.recv(1, socket.MSG_PEEK) == b"\x16":
            context.wrap_socket(connection, server_side=True).close()
        else:
            answer_with(http_answer(b"<html>", status=b"400 Bad Request"))(connection)
    session = connect(serve(answer).url)
    error = describe_stranger(session.request(Call("GET", "/", 60)), session.peer)
    assert error.cause == causes.TLS and "Begin MANAGE_SERVER_URL with https://" in str(error)


def test_tls_to_a_port_that_speaks_plain_http(serve, failure, monkeypatch):
    monkeypatch.setattr("transport.sessions.CONNECT_TIMEOUT_SECONDS", 0.2)
    server = serve(answer_with(http_answer()))
    error = failure(f"https://127.0.0.1:{server.port}")
    assert error.cause == causes.TLS
    assert "plain HTTP" in str(error) and "Begin MANAGE_SERVER_URL with http://" in str(error)


def test_tls_to_a_port_that_speaks_plain_http_and_hangs_up(serve, failure):
    def answer(connection):
        start = connection.recv(65536)
        if start.startswith(b"HEAD"):
            connection.sendall(http_answer())
    error = failure(f"https://127.0.0.1:{serve(answer).port}")
    assert error.cause == causes.TLS and "plain HTTP" in str(error)


def test_tls_to_something_that_hangs_up(serve, failure):
    error = failure(f"https://127.0.0.1:{serve(close_at_once).port}")
    assert error.cause == causes.TLS and "Does this port speak TLS?" in str(error)


@pytest.mark.parametrize(("certificate", "phrase"), [
    ({"end": "20210101000000Z"}, "has expired"),
    ({"start": "21100101000000Z"}, "is not valid yet"),
    ({"names": "DNS:other.test"}, "for another name than 127.0.0.1"),
    ({"names": "IP:192.0.2.1"}, "for another name than 127.0.0.1"),
])
def test_a_bad_certificate(serve, failure, make_certificate, monkeypatch, certificate, phrase):
    path = make_certificate(**certificate)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    error = failure(serve(answer_with(http_answer()), path).url)
    assert error.cause == causes.CERTIFICATE and phrase in str(error)


def test_a_certificate_that_is_not_trusted_names_the_variable(serve, failure, make_certificate):
    error = failure(serve(answer_with(http_answer()), make_certificate()).url)
    assert error.cause == causes.CERTIFICATE
    assert "does not trust (self" in str(error) and "Set REQUESTS_CA_BUNDLE" in str(error)


def test_a_certificate_that_is_trusted(serve, connect, make_certificate, monkeypatch):
    path = make_certificate()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    server = serve(answer_with(http_answer()), path)
    assert connect(server.url).request(Call("GET", "/", 60)).status == 200


# Proxies


def test_a_proxy_that_is_not_there_is_named_with_its_variable_and_without_its_password(
    failure, monkeypatch
):
    monkeypatch.setenv("http_proxy", "http://user:pa@ss@127.0.0.1:1")
    error = failure("http://tasks.test:8000/x")
    assert error.cause == causes.PROXY
    assert "the proxy http://127.0.0.1:1 can't be reached" in str(error)
    assert "Correct http_proxy, or add tasks.test to no_proxy" in str(error)
    assert "pa@ss" not in str(error) and "ss@" not in str(error)


def test_a_proxy_whose_name_is_unknown(failure, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://nowhere.invalid:3128")
    error = failure("https://tasks.test")
    assert error.cause == causes.PROXY and "Correct ALL_PROXY" in str(error)


def test_a_proxy_that_refuses_to_connect(serve, failure, monkeypatch):
    server = serve(answer_with(b"HTTP/1.1 403 Not this one\r\n\r\n", then_close=True))
    monkeypatch.setenv("HTTPS_PROXY", server.url)
    error = failure("https://tasks.test")
    assert error.cause == causes.PROXY
    assert "refused to connect to it (403 Not this one)" in str(error)


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", [
    "socks9://127.0.0.1:1", "http://u:s3#cret@p.test:1", "http://u:s3/cret@p.test", "http://:1",
    "u:s3?cret@p.test:1", "u:s3cret@p.test:x", "http:/u:s3cret@p.test", "http:/p.test:1",
    "http://u:s3\\cret@p.test", "http://u:s3 cret@p.test", "http://u:s3\u2100cret@p.test",
    "http://u:s3[cret@p.test", "http://u:1/s3cret@p.test", "http://p.test:0", "http://p.test/x",
])
def test_a_proxy_that_can_not_be_used_is_refused_by_its_variable_and_without_its_password(
    monkeypatch, name, proxy
):
    monkeypatch.setenv(name, proxy)
    with pytest.raises(SetupError, match=f"^{name} must .*, not '[^']*'\\.$") as raised:
        find_proxies("https://tasks.test")
    assert "s3" not in str(raised.value) and "cret" not in str(raised.value)
    assert find_proxies("http://127.0.0.1") == {}


@pytest.mark.parametrize(("proxy", "url"), [
    ("p.test:3128", "http://p.test:3128"), ("u:p@p.test", "http://u:p@p.test"),
    (" http://p.test:3128/ ", "http://p.test:3128"), ("'http://p.test'", "http://p.test"),
    ("socks5h://u:p@[::1]:1080", "socks5h://u:p@[::1]:1080"), ("http://u:p@ss@p.test:1",) * 2,
    ("HTTP://p.test", "HTTP://p.test"), ("http://u:p%23@p.test", "http://u:p%23@p.test"),
])
def test_a_proxy_may_be_written_in_every_way_that_can_be_read(monkeypatch, proxy, url):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("https_proxy", "socks9://")  # not the one for this URL
    assert find_proxies("http://tasks.test") == {"http": url}


def test_each_sentence_about_a_proxy_has_one_full_stop():
    cause = requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")
    error = diagnose(cause, make_peer("http://tasks.test"), "socks5://p.test:1")
    assert error.cause == causes.PROXY and ".." not in str(error)
    assert "can't be used: Missing dependencies for SOCKS support. Correct" in str(error)


@pytest.mark.parametrize("host", [
    "localhost", "LOCALHOST.", "127.0.0.1", "127.8.8.8", "127.1", "[::1]", "[::ffff:127.0.0.1]",
    "app.localhost", "0.0.0.0",
])
def test_loopback_is_never_reached_through_a_proxy(connect, monkeypatch, host):
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for scheme in ("http", "https"):
        assert connect(f"{scheme}://{host}:5000").proxy == ""
    assert connect("http://tasks.test").proxy == "http://127.0.0.1:1"


# Answers that do not come, or that are not HTTP


def test_a_server_that_never_answers(serve, failure):
    error = failure(serve(wait_for_more).url, seconds=0.2)
    assert error.cause == causes.SILENT and error.was_lost


def test_a_server_that_hangs_up(serve, failure):
    error = failure(serve(close_at_once).url)
    assert error.cause == causes.LOST and error.was_lost


def test_a_port_of_another_protocol(serve, failure):
    def answer(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        wait_for_more(connection)
    error = failure(serve(answer).url)
    assert error.cause == causes.NOT_HTTP and "Is the port in MANAGE_SERVER_URL right" in str(error)


def test_a_url_that_can_not_be_used(failure):
    error = failure(f"http://{'a' * 80}.test")
    assert error.cause == causes.URL and "Correct MANAGE_SERVER_URL." in str(error)


# Answers of something in between


def stranger(status, headers=None, url="https://user:secret@tasks.test/x", proxy=""):
    error = describe_stranger(parse_answer(status, headers or {}, b"<html>"), make_peer(url), proxy)
    assert error.cause == causes.STRANGER and error.status == status
    assert "secret" not in str(error) and "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_error_asks_whether_the_server_behind_it_runs(status):
    text = stranger(status)
    assert f"answers {status} in place of the Manage Server at https://tasks.test/x" in text
    assert "Is `python manage_server.py` behind it running?" in text


@pytest.mark.parametrize(("status", "phrase"), [
    (413, "client_max_body_size"), (414, "large_client_header_buffers"),
    (431, "large_client_header_buffers"), (407, "URL of the proxy"), (429, "limits the number"),
    (404, "Is MANAGE_SERVER_URL right, its path included"), (405, "method not allowed"),
    (401, "asks for a login"), (403, "refuses access"), (200, "status 200"), (418, "status 418"),
])
def test_the_answer_of_a_stranger_names_what_to_change(status, phrase):
    assert phrase in stranger(status)


def explain(serve, connect, answers):
    """Return the NoAnswer for a 404, given what the server answers to the next request."""
    session = connect(serve(answer_with(answers)).url)
    return session.explain_stranger(parse_answer(404, {}, b"404 page not found"), may_probe=True)


def test_ollama_in_place_of_the_manage_server_is_named(serve, connect):
    error = explain(serve, connect, http_answer(b"Ollama is running"))
    assert error.cause == causes.STRANGER and error.status == 404
    assert "Ollama answers there. Set MANAGE_SERVER_URL to the URL of the" in str(error)


@pytest.mark.parametrize("answer", [
    http_answer(b"Welcome"), http_answer(b"Ollama is running", b"404 Not Found"), b"nonsense\r\n",
])
def test_nothing_else_is_taken_for_ollama(serve, connect, answer):
    error = explain(serve, connect, answer)
    assert "Ollama" not in str(error) and "nothing at this path" in str(error)


def test_a_redirect_is_shown_but_not_followed(serve, connect):
    server = serve(answer_with(http_answer(
        status=b"302 Found", headers=b"Location: http://a:b@evil.test/\x1b[2J\r\n")))
    session = connect(server.url)
    answer = session.request(Call("POST", "/submit", 60, {}))
    text = str(describe_stranger(answer, session.peer))
    assert r"redirects to http://evil.test/\x1b[2J (302)" in text
    assert len(server.connections) == 1


def test_the_proxy_of_the_environment_is_named_without_its_password():
    assert "proxy http://p.test:1 answers 502" in stranger(502, proxy="http://u:secret@p.test:1")


def test_the_request_is_read_by_these_servers(serve, connect):
    """The servers above must not be the reason for what the tests see."""
    heads = []

    def answer(connection):
        heads.append(read_request(connection))
        connection.sendall(http_answer())
    assert connect(serve(answer).url).request(Call("GET", "/x", 60)).status == 200
    assert heads[0].startswith(b"GET /x HTTP/1.1\r\n")
