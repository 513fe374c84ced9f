"""Who may come in: tokens, origins, hosts; through Flask's client."""
from __future__ import annotations

import dataclasses
import hashlib
import os

import pytest

import config
import manage_server
from manage.auth import guard as auth

ALICE = {"Authorization": "Bearer a-secret"}
BOB = {"x-api-key": "b-secret"}
GPU_1 = {"Authorization": "Bearer w-1"}
GPU_2 = {"Authorization": "Bearer w-2"}
B_DIGEST = hashlib.sha256(b"b-secret").hexdigest()

WITH_TOKENS = {
    "user_tokens": f"alice:a-secret,bob:sha256:{B_DIGEST}",
    "worker_tokens": "gpu-1:w-1,gpu-2:w-2",
}

USER_ROUTES = [("POST", "/submit"), ("GET", "/result/1")]
WORKER_ROUTES = [("GET", "/task"), ("POST", "/task"), ("POST", "/task/1/progress")]


def make_client(**settings):
    app = manage_server.create_app(dataclasses.replace(config.Settings(), **settings))
    return app.test_client()


@pytest.fixture
def client():
    return make_client(**WITH_TOKENS)


def submit(client, headers, **fields):
    answer = client.post("/submit", json={"prompt": "hi", **fields}, headers=headers)
    assert answer.status_code == 200
    return answer.get_json()["task_id"]


@pytest.mark.parametrize("method, path", USER_ROUTES + WORKER_ROUTES + [("GET", "/status")])
@pytest.mark.parametrize("headers", [
    {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "},
    {"Authorization": "Basic YTpi"}, {"x-api-key": "wrong"}, {"Authorization": "Bearer \xff"},
])
def test_without_a_known_token_the_answer_is_401_and_says_how(client, method, path, headers):
    answer = client.open(path, method=method, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "token" in answer.get_json()["error"]


@pytest.mark.parametrize("method, path", USER_ROUTES)
def test_a_worker_token_opens_no_route_of_users(client, method, path):
    assert client.open(path, method=method, headers=GPU_1).status_code == 403


@pytest.mark.parametrize("method, path", WORKER_ROUTES)
def test_a_user_token_opens_no_route_of_workers(client, method, path):
    assert client.open(path, method=method, headers=ALICE).status_code == 403


def test_every_route_has_its_kind_of_token():
    app = manage_server.create_app(config.Settings())
    assert {rule.endpoint for rule in app.url_map.iter_rules()} == set(manage_server.TOKEN_KINDS)


def test_healthz_asks_for_no_token(client):
    assert client.get("/healthz").status_code == 200


def test_both_kinds_may_see_the_status(client):
    assert client.get("/status", headers=ALICE).status_code == 200
    assert client.get("/status", headers=GPU_1).status_code == 200


def test_a_result_is_for_its_owner_alone_and_unknown_to_all_others(client):
    task_id = submit(client, ALICE)
    client.post("/task", json={"task_id": task_id, **claimed(client, GPU_1), "result": "42"},
                headers=GPU_1)
    of_alice = client.get(f"/result/{task_id}", headers=ALICE)
    of_bob = client.get(f"/result/{task_id}", headers=BOB)
    unknown = client.get("/result/999", headers=BOB)
    assert of_alice.get_json() == {"task_id": task_id, "result": "42"}
    assert (of_bob.status_code, of_bob.data) == (unknown.status_code, unknown.data)
    assert of_bob.status_code == 404


def claimed(client, headers):
    return {"lease_id": client.get("/task", headers=headers).get_json()["lease_id"]}


def test_a_worker_cannot_complete_what_another_holds(client):
    task_id = submit(client, ALICE)
    claimed(client, GPU_1)
    outcome = {"task_id": task_id, "result": "forged"}
    assert client.post("/task", json=outcome, headers=GPU_2).status_code == 409
    assert client.get(f"/result/{task_id}", headers=ALICE).status_code == 202


def test_a_worker_cannot_complete_what_nobody_has_claimed(client):
    task_id = submit(client, ALICE)
    outcome = {"task_id": task_id, "result": "forged"}
    assert client.post("/task", json=outcome, headers=GPU_1).status_code == 409


def test_a_worker_without_lease_ids_completes_what_it_holds(client):
    task_id = submit(client, ALICE)
    claimed(client, GPU_1)
    outcome = {"task_id": task_id, "result": "mine"}
    assert client.post("/task", json=outcome, headers=GPU_1).status_code == 200


def test_claims_go_round_the_users_oldest_first_within_each(client):
    flood = [submit(client, ALICE) for _ in range(5)]
    late = [submit(client, BOB) for _ in range(2)]
    order = [client.get("/task", headers=GPU_1).get_json()["task_id"] for _ in range(7)]
    assert order == [flood[0], late[0], flood[1], late[1], *flood[2:]]


def test_the_queue_position_counts_the_turns_of_the_others(client):
    for _ in range(5):
        submit(client, ALICE)
    task_id = submit(client, BOB)
    answer = client.get(f"/result/{task_id}", headers=BOB)
    assert answer.get_json()["queue_position"] == 2


def test_a_user_with_too_many_queued_tasks_is_refused_and_others_are_not():
    client = make_client(**WITH_TOKENS, max_queued_tasks_per_user=3)
    for _ in range(3):
        submit(client, ALICE)
    refused = client.post("/submit", json={"prompt": "hi"}, headers=ALICE)
    assert refused.status_code == 503
    assert "You have too many queued tasks" in refused.get_json()["error"]
    assert int(refused.headers["Retry-After"]) > 0
    submit(client, BOB)


def test_the_tasks_of_one_user_fill_at_most_half_of_the_store():
    client = make_client(**WITH_TOKENS, max_store_bytes=1024 * 1024)
    statuses = [
        client.post("/submit", json={"prompt": "x" * 100_000}, headers=ALICE).status_code
        for _ in range(7)
    ]
    assert statuses == [200] * 5 + [503] * 2
    submit(client, BOB, prompt="x" * 100_000)


def test_a_token_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "users"
    path.write_text("# who may ask\nalice:a-secret  # on her laptop\n\n")
    client = make_client(user_tokens_file=str(path), worker_tokens="gpu-1:w-1")
    submit(client, ALICE)
    path.write_text(f"bob:sha256:{B_DIGEST}\n")
    assert client.post("/submit", json={"prompt": "hi"}, headers=ALICE).status_code == 401
    submit(client, BOB)


def test_a_token_in_a_file_may_have_a_number_sign_and_spaces_around_it(tmp_path):
    path = tmp_path / "users"
    path.write_text("alice: a#secret  # a comment\n")
    tokens = auth.Tokens(auth.USER, "", str(path))
    assert tokens.name_of("a#secret") == "alice"
    assert tokens.name_of("a") is None


def test_an_empty_token_file_lets_nobody_in(tmp_path):
    path = tmp_path / "users"
    path.write_text("# nobody yet\n")
    client = make_client(user_tokens_file=str(path))
    assert client.post("/submit", json={"prompt": "hi"}, headers=ALICE).status_code == 401


def test_a_token_file_that_breaks_lets_nobody_in_until_it_is_mended(tmp_path, caplog):
    path = tmp_path / "users"
    path.write_text("alice:a-secret\n")
    client = make_client(user_tokens_file=str(path))
    submit(client, ALICE)
    path.write_text("alice a-secret\n")
    for _ in range(3):
        assert client.post("/submit", json={"prompt": "hi"}, headers=ALICE).status_code == 401
    assert caplog.text.count("nobody whose token") == 1
    assert "a-secret" not in caplog.text
    os.remove(str(path))
    assert client.post("/submit", json={"prompt": "hi"}, headers=ALICE).status_code == 401
    path.write_text("alice:a-secret\n")
    submit(client, ALICE)


@pytest.mark.parametrize("text", [
    "alice", "alice:", ":secret", "alice:sha256:abc", "alice:sha256:" + "g" * 64, "alice:gehe\xefm",
])
def test_tokens_that_cannot_be_read_are_refused_and_not_shown(text):
    with pytest.raises(config.SettingError) as caught:
        auth.Tokens(auth.USER, text, "")
    assert "USER_TOKENS" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_token_file_is_said_at_the_start():
    with pytest.raises(config.SettingError, match="/no/such/file cannot be read"):
        auth.Tokens(auth.WORKER, "", "/no/such/file")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost:1", "", "http://["])
def test_a_page_of_another_site_is_refused(origin):
    answer = make_client().get("/task", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_an_image_in_a_page_of_another_site_claims_nothing(site):
    assert make_client().get("/task", headers={"Sec-Fetch-Site": site}).status_code == 403


def test_the_page_of_the_server_itself_is_let_in():
    answer = make_client().get(
        "/status", headers={"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 200


def test_an_allowed_origin_may_ask_first_and_read_the_answer():
    client = make_client(allowed_origins="https://app.example.org/, https://b.example.org",
                         **WITH_TOKENS)
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
def test_an_allowed_origin_that_is_none_is_said(text):
    with pytest.raises(config.SettingError, match="ALLOWED_ORIGINS"):
        make_client(allowed_origins=text)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:50", "10.0.0.1", "a.evil"])
def test_without_tokens_an_unknown_host_is_refused(host):
    assert make_client().get("/status", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "127.0.0.1:5000", "[::1]:5000"])
def test_without_tokens_every_name_of_loopback_is_fine(host):
    assert make_client().get("/status", headers={"Host": host}).status_code == 200


def test_without_tokens_nobody_comes_in_from_another_machine_or_through_a_proxy():
    client = make_client()
    far = client.get("/status", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    proxied = client.get("/status", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (far.status_code, proxied.status_code) == (403, 403)


def test_with_tokens_any_host_and_any_machine_will_do(client):
    answer = client.get("/status", headers={"Host": "tasks.example.org", **ALICE},
                        environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == 200


def test_insecure_lets_everybody_in_but_no_strangers_pages():
    client = make_client(insecure=True)
    far = client.get("/status", environ_base={"REMOTE_ADDR": "192.0.2.1"},
                     headers={"Host": "tasks.example.org"})
    assert far.status_code == 200
    assert client.get("/status", headers={"Origin": "http://evil.example"}).status_code == 403


def test_no_answer_may_be_cached_or_framed_or_sniffed(client):
    for path in ("/status", "/result/1", "/nothing", "/healthz"):
        headers = client.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_too_many_headers_are_refused():
    headers = {f"X-Header-{n}": "1" for n in range(200)}
    assert make_client().get("/status", headers=headers).status_code == 431


def test_tokens_are_made_for_the_kinds_that_have_none():
    guard = auth.Guard(dataclasses.replace(config.Settings(), worker_tokens="gpu:w"))
    made = guard.make_missing_tokens()
    assert list(made) == ["user"]
    assert guard.users.name_of(made["user"]) == "default"
    said = []
    auth.announce(made, "http://host:5000", said.append)
    assert any(f"USER_TOKEN={made['user']} " in line for line in said)
    assert not any("WORKER_TOKEN" in line for line in said)
