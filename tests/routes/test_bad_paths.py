"""Malformed paths, methods, parameters and headers: each is a 4xx, and loses no task."""
from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.support.routes import ServerWithTasks, refusal

ROUTES = {
    "/submit": {"POST"}, "/task": {"GET", "POST"}, "/result/1": {"GET", "DELETE"},
    "/task/1/progress": {"POST"}, "/status": {"GET"}, "/healthz": {"GET"},
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_wrong_method_is_405_and_names_the_right_ones(
    server: ServerWithTasks, path: str
) -> None:
    for method in METHODS:
        if method in ROUTES[path]:
            continue
        answer = server.client.open(path, method=method)
        sentence = refusal(answer, 405)
        for right in ROUTES[path]:
            assert right in sentence and right in answer.headers["Allow"]


UNKNOWN_PATHS = [
    "/nothing", "/submit/", "/submit//", "/Submit", "/submit/1", "/submit.json",
    "/task/", "/task/1", "/task/1/", "/task/1/progress/", "/task//progress",
    "/result", "/result/", "/result/1/", "/result//1", "/result/1/2",
    "/result/1/../1", "/../submit", "/static/x", "/favicon.ico", "/%2e%2e/etc/passwd",
    "/submit%00", "/submit%0a", "/%ff%fe", "/" + "a" * 10000, "/a/b" * 1000,
]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_404_and_not_a_redirect(server: ServerWithTasks, method: str) -> None:
    for path in UNKNOWN_PATHS:
        assert "/submit" in refusal(server.client.open(path, method=method), 404), path


IDS = [
    "0", "-1", "+1", "1.0", "1e0", "3", "1000000000", "9" * 18, "9" * 19, "9" * 20, "9" * 5000,
    "0" * 5000, "0x1", "1_0", "abc", "null", "None", "NaN", "true", "%201", "1%20", "1%0a",
    "%00", "1%00", "%ff", "%ed%a0%80", "%f0%9f%98%80", "%D9%A1", "%EF%BC%91", "%C2%B9", "1;2",
    "1,2", "%27%20OR%201", "a" * 10000, "<script>", "%7B%7D", "..",
]


@pytest.mark.parametrize("method, path", [
    ("GET", "/result/{}"), ("GET", "/result/{}/stream"), ("DELETE", "/result/{}"),
    ("POST", "/task/{}/progress")])
def test_an_impossible_id_is_404(server: ServerWithTasks, method: str, path: str) -> None:
    body = {"lease_id": server.lease_id} if method == "POST" else None
    for text in IDS:
        refusal(server.client.open(path.format(text), method=method, json=body), 404)


def test_leading_zeros_of_an_id_break_nothing(server: ServerWithTasks) -> None:
    for text in ("01", "007", "0" * 18 + "1"):
        assert server.client.get(f"/result/{text}").status_code in (202, 404)


IMPOSSIBLE_SECONDS = [
    "-1", "-0.1", "nan", "NaN", "inf", "-inf", "infinity", "1e400", "-1e400", "9" * 5000, "text",
    "10s", "1,5", "0x10", "true", "None", "[]", "%00", "1%00", "%ff", "\ud800", "5 5", "--1",
    "1e", "%ED%A0%80", "a" * 10000,
]


@pytest.mark.parametrize("path", ["/task?wait=", "/task?lease=", "/result/1?wait="])
def test_impossible_seconds_are_refused(server: ServerWithTasks, path: str) -> None:
    key = path.rpartition("?")[2].rstrip("=")
    for text in IMPOSSIBLE_SECONDS:
        text = text if "%" in text else quote(text, errors="surrogatepass")
        assert key in refusal(server.client.get(path + text)), text


def test_a_lease_shorter_than_a_second_is_refused(server: ServerWithTasks) -> None:
    for text in ("0", "0.999", "1e-300", "-0"):
        assert "lease" in refusal(server.client.get(f"/task?lease={text}")), text


@pytest.mark.parametrize("query", [
    "wait=-1&wait=0", "lease=nan&lease=30", "worker=%0A&worker=a",
])
def test_the_first_of_a_repeated_parameter_is_read(server: ServerWithTasks, query: str) -> None:
    refusal(server.client.get("/task?" + query))


NAMES = ["a\nb", "\n", "\r\nSet-Cookie: a", "a\0b", "a" * 10000, "\x7f", "\x1b[31mred", "\u2028",
         "\u200b", "\u202eabc"]


def test_an_unprintable_or_very_long_name_of_a_worker_is_refused(server: ServerWithTasks) -> None:
    for name in NAMES:
        assert "worker" in refusal(server.client.get(f"/task?worker={quote(name)}")), name
        for path in ("/task/claim", "/task/leave"):
            for key in ("worker", "instance"):
                assert key in refusal(server.client.post(path, json={key: name})), name


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_no_task_can_name_is_ignored_and_the_others_count(
    server: ServerWithTasks, name: str
) -> None:
    name = f"a{name}b"  # spaces around a model are removed
    claim_and_release(server, "worker=other&models=llama3")
    assert claim_and_release(server, f"models={quote(name)}").get_json() == {}
    assert claim_and_release(server, f"models={quote(name)},llama3").get_json()["task_id"] == 2


def test_a_claim_may_name_thousands_of_models(server: ServerWithTasks) -> None:
    names = [f"hf.co/bartowski/some-rather-long-name-of-a-model-GGUF-{number}:Q4_K_M"
             for number in range(1500)]
    query = "models=" + ",".join([*names, "llama3"])
    assert claim_and_release(server, query).get_json()["task_id"] == 2
    body = {"models": [*names, "llama3"]}
    claimed = server.client.post("/task/claim", json=body).get_json()
    assert claimed["task_id"] == 2
    server.client.post("/task", json={"task_id": 2, "release": True})


def claim_and_release(server: ServerWithTasks, query: str) -> Any:
    """Send a claim that may be answered or refused, and release the task it got."""
    answer = server.client.get("/task?" + query)
    if answer.status_code == 200 and answer.get_json():
        outcome = {"task_id": 2, "lease_id": answer.get_json()["lease_id"], "release": True}
        assert server.client.post("/task", json=outcome).status_code == 200
    return answer


@pytest.mark.parametrize("query", [
    "worker=%ED%A0%80", "worker=%ff", "models=%ED%A0%80", "models=%ff,,,", "models=,", "models=",
    "%ff=%ff", "&&&", "=", "wait", "unknown=1", "worker=%F0%9F%98%80", "wait=%D9%A1%", "%",
    "a=1&" * 5000,
])
def test_a_query_that_is_not_utf_8_breaks_nothing(server: ServerWithTasks, query: str) -> None:
    answer = claim_and_release(server, query)
    if answer.status_code != 200:
        refusal(answer)
    assert server.client.get("/status").status_code == 200


@pytest.mark.parametrize("headers", [
    {"Host": ""}, {"Host": "a b"}, {"Host": "\u00ff"}, {"Accept": "text/html"},
    {"X-HTTP-Method-Override": "DELETE"}, {"Cookie": "\u00ff=;;="}, {"Range": "bytes=9-1"},
    {"Authorization": "Basic \u00ff"}, {"Expect": "nonsense"}, {"Content-Encoding": "gzip"},
])
def test_strange_headers_break_nothing(server: ServerWithTasks, headers: Any) -> None:
    for path in ("/submit", "/task", "/result/1", "/status", "/nothing"):
        refusal(server.client.put(path, headers=headers), 400, 403, 404, 405)
