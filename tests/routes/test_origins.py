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


CHROME = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/126.0 Safari/537.36",
          "Accept-Language": "en", "Accept-Encoding": "gzip, deflate"}


@pytest.mark.parametrize("headers", [
    {"Accept": "image/avif,image/webp,*/*;q=0.8", "Referer": "http://evil.example/"},
    {"Accept": "*/*"}, {"Accept": "text/html"}, {"Accept-Language": ""}, {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_browser_that_does_not_say_which_page_asks_claims_nothing(method, headers):
    """Over plain HTTP, an <img> and a fetch without CORS send neither Origin nor Sec-Fetch-Site."""
    client = make_client(insecure=True)
    client.post("/submit", json={"prompt": "Why?"})
    for base in ("http://10.0.0.5:5000", "http://localhost:5000"):
        answer = client.open("/task", method=method, headers={**CHROME, **headers}, base_url=base)
        assert answer.status_code == 403
    assert client.get("/task").get_json()["task_id"] == 1


@pytest.mark.parametrize("headers", [
    {}, {"User-Agent": "curl/8.5.0", "Accept": "*/*"}, {"User-Agent": "Go-http-client/1.1"},
    {"User-Agent": "python-requests/2.32", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"},
    {"User-Agent": "node", "Accept-Language": "*", "Sec-Fetch-Mode": "cors", "Accept": "*/*"},
    {"User-Agent": "Mozilla/5.0 (Windows NT; en-US) WindowsPowerShell/5.1.22621"},
    {**CHROME, "Sec-Fetch-Site": "same-origin"}, {**CHROME, "Origin": "http://localhost"},
])
def test_every_program_may_claim(headers):
    client = make_client(insecure=True)
    client.post("/submit", json={"prompt": "Why?"})
    assert client.get("/task", headers=headers).get_json()["task_id"] == 1


def test_a_browser_may_read_in_its_address_bar():
    headers = {**CHROME, "Sec-Fetch-Site": "none"}
    assert make_client().get("/status", headers=headers).status_code == 200


def test_a_page_of_the_server_itself_is_admitted():
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert make_client().get("/status", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_a_page_of_an_allowed_origin_may_send_what_sdks_send(path):
    client = make_client(allowed_origins="https://app.example.org", **TOKENS)
    asked = ["authorization", "content-type", "x-api-key", "anthropic-version", "anthropic-beta",
             "anthropic-dangerous-direct-browser-access", "openai-beta", "x-stainless-arch",
             "x-stainless-retry-count", "x-stainless-runtime-version"]
    preflight = client.options(path, headers={
        "Origin": "https://app.example.org", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ",".join([*asked, "cookie", "x-stainless-\x7f"])})
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert preflight.status_code == 200
    assert set(asked) <= set(allowed)
    assert not {"cookie", "x-stainless-\x7f"} & set(allowed)


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
    assert answer.headers["Vary"].startswith("Origin")
    assert "X-Task-Id" in answer.headers["Access-Control-Expose-Headers"]
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


def test_without_tokens_other_machines_are_refused():
    client = make_client()
    remote = client.get("/status", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert remote.status_code == 403


@pytest.mark.parametrize("name", [
    "X-Forwarded-For", "x-forwarded-proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-IP",
    "Forwarded", "Via", "CF-Connecting-IP", "True-Client-IP",
])
def test_without_tokens_what_a_proxy_has_passed_on_is_refused(name):
    assert make_client().get("/status", headers={name: "x"}).status_code == 403
    assert make_client(insecure=True).get("/status", headers={name: "x"}).status_code == 200


@pytest.mark.parametrize("origin", [
    "http://[", "app.example.org", "https://app.example.org/x", "https://app.example.org?x",
    "https://bob:s3cret@app.example.org", "bob:s3#cret@app.example.org",
])
def test_what_is_no_origin_is_refused_at_start_without_its_password(origin):
    with pytest.raises(config.SettingError, match=r"^ALLOWED_ORIGINS must be a list") as caught:
        make_client(allowed_origins="https://a.example.org," + origin)
    assert "cret" not in str(caught.value)


def test_without_tokens_other_machines_are_refused_on_every_path():
    remote = make_client().get("/nothing", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert remote.status_code == 403


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
    assert headers["Llm-Tasks"] == "1"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_too_many_headers_are_431():
    headers = {f"X-Header-{n}": "1" for n in range(200)}
    assert make_client().get("/status", headers=headers).status_code == 431
