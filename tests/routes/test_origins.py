"""Web pages of other sites, other machines and other host names; and the headers of answers."""
from __future__ import annotations

import pytest

import config
from tests.support.routes import ALICE, TOKENS, make_client


@pytest.mark.parametrize("origin",
                         ["http://evil.example", "null", "https://localhost:1", "", "http://["])
def test_a_page_of_another_site_is_refused(origin):
    answer = make_client().get("/task", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_an_image_on_another_site_claims_nothing(site):
    assert make_client().get("/task", headers={"Sec-Fetch-Site": site}).status_code == 403


def test_a_page_of_the_server_itself_is_admitted():
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert make_client().get("/status", headers=headers).status_code == 200


def test_an_allowed_origin_may_send_a_preflight_and_read_the_answer():
    client = make_client(allowed_origins="https://app.example.org/, https://b.example.org",
                         **TOKENS)
    headers = {"Origin": "https://app.example.org", "Sec-Fetch-Site": "cross-site"}
    preflight = client.options("/submit", headers={
        **headers, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    })
    assert preflight.status_code == 200
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    answer = client.post("/submit", json={"prompt": "hi"}, headers={**headers, **ALICE})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    assert answer.headers["Vary"] == "Origin"
    assert client.get("/status", headers={"Origin": "https://c.example.org"}).status_code == 403


@pytest.mark.parametrize("text", ["app.example.org", "https://a.example/path", "https://"])
def test_an_allowed_origin_that_is_not_an_origin_is_refused_at_start(text):
    with pytest.raises(config.SettingError, match="ALLOWED_ORIGINS"):
        make_client(allowed_origins=text)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:50", "10.0.0.1", "a.evil"])
def test_without_tokens_another_host_name_is_refused(host):
    assert make_client().get("/status", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "127.0.0.1:5000", "[::1]:5000"])
def test_without_tokens_every_name_of_loopback_is_admitted(host):
    assert make_client().get("/status", headers={"Host": host}).status_code == 200


def test_without_tokens_other_machines_and_proxies_are_refused():
    client = make_client()
    remote = client.get("/status", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    proxied = client.get("/status", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (remote.status_code, proxied.status_code) == (403, 403)


def test_with_tokens_every_host_and_machine_is_admitted():
    answer = make_client(**TOKENS).get(
        "/status", headers={"Host": "tasks.example.org", **ALICE},
        environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == 200


def test_insecure_admits_every_machine_but_no_page_of_another_site():
    client = make_client(insecure=True)
    remote = client.get("/status", environ_base={"REMOTE_ADDR": "192.0.2.1"},
                        headers={"Host": "tasks.example.org"})
    assert remote.status_code == 200
    assert client.get("/status", headers={"Origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/status", "/result/1", "/nothing", "/healthz"])
def test_no_answer_may_be_cached_framed_or_sniffed(path):
    headers = make_client(**TOKENS).get(path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_too_many_headers_are_431():
    headers = {f"X-Header-{n}": "1" for n in range(200)}
    assert make_client().get("/status", headers=headers).status_code == 431
