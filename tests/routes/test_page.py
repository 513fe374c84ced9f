"""What is at /: the page for browsers, Ollama's words for all others; and the page's files."""
from __future__ import annotations

import pytest

from tests.support.routes import TOKENS, make_client, refusal

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": "application/json"},
                                     {"Accept": "text/plain"}, {"Accept": "text/*"},
                                     {"Accept": "text/html;q=0"},
                                     {"Accept": "*/*, text/html;q=0.0"}])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_clients_other_than_browsers_find_an_ollama(method, headers):
    answer = make_client(**TOKENS).open("/", method=method, headers=headers)
    assert (answer.status_code, answer.content_type) == (200, "text/plain; charset=utf-8")
    assert answer.data == (b"Ollama is running" if method == "GET" else b"")


def test_a_browser_finds_the_page_and_needs_no_token_for_it():
    answer = make_client(**TOKENS).get("/", headers=BROWSER)
    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    assert answer.data.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("accept", ["text/html", "TEXT/HTML;q=0.1", "*/*;q=0.1,text/html;q=1"])
def test_whoever_asks_for_html_finds_the_page(accept):
    answer = make_client().get("/", headers={"Accept": accept})
    assert answer.content_type == "text/html; charset=utf-8"


def test_the_page_may_run_its_own_script_and_no_other():
    headers = make_client().get("/", headers=BROWSER).headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Llm-Tasks"] == "1"


@pytest.mark.parametrize("name, content_type", [
    ("page.css", "text/css; charset=utf-8"), ("page.js", "text/javascript; charset=utf-8")])
def test_a_file_of_the_page_needs_no_token(name, content_type):
    answer = make_client(**TOKENS).get(f"/page/{name}")
    assert (answer.status_code, answer.content_type) == (200, content_type)


@pytest.mark.parametrize("name", ["index.html", "page.py", "..%2Fpage.js", "../routes/page.py", ""])
def test_nothing_else_can_be_read(name):
    refusal(make_client().get(f"/page/{name}"), 404)


def test_other_answers_keep_the_policy_that_allows_nothing():
    for path in ("/healthz", "/page/page.js"):
        policy = make_client().get(path).headers["Content-Security-Policy"]
        assert policy == "default-src 'none'; frame-ancestors 'none'"


def test_a_link_on_another_site_leads_to_the_page_and_nowhere_else():
    link = {**BROWSER, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document"}
    client = make_client()
    assert client.get("/", headers=link).status_code == 200
    for path in ("/status", "/task", "/result/1"):
        assert client.get(path, headers=link).status_code == 403
    image = {**link, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert client.get("/", headers=image).status_code == 403
