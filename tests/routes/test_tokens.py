"""Which token opens which route, and whose task it shows."""
from __future__ import annotations

import base64
import dataclasses
import hashlib
import os

import pytest

import config
from manage.auth.guard import Guard, print_new_tokens
from manage.auth.tokens import USER, WORKER, Tokens
from manage.routes import operations
from tests.support.routes import (
    ALICE,
    BOB,
    GPU_1,
    GPU_2,
    TOKENS,
    claim,
    make_client,
    refusal,
    submit,
)

B_DIGEST = hashlib.sha256(b"b").hexdigest()
USER_ROUTES = [("POST", "/submit"), ("GET", "/result/1")]
WORKER_ROUTES = [("GET", "/task"), ("POST", "/task"), ("POST", "/task/1/progress")]


@pytest.fixture
def client():
    return make_client(**TOKENS)


def submit_status(client, headers):
    return client.post("/submit", json={"prompt": "hi"}, headers=headers).status_code


@pytest.mark.parametrize("method, path", USER_ROUTES + WORKER_ROUTES + [("GET", "/status")])
@pytest.mark.parametrize("headers", [
    {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "},
    {"Authorization": "Basic YTpj"}, {"Authorization": "Basic ="}, {"Authorization": "Basic YQ=="},
    {"Authorization": "Basic /w=="}, {"x-api-key": "wrong"}, {"Authorization": "Bearer \xff"},
])
def test_a_missing_or_unknown_token_is_401_with_a_challenge(client, method, path, headers):
    answer = client.open(path, method=method, headers=headers)
    assert "token" in refusal(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("method, path", USER_ROUTES)
def test_a_worker_token_does_not_open_user_routes(client, method, path):
    assert "user token" in refusal(client.open(path, method=method, headers=GPU_1), 403)


@pytest.mark.parametrize("method, path", WORKER_ROUTES)
def test_a_user_token_does_not_open_worker_routes(client, method, path):
    assert "worker token" in refusal(client.open(path, method=method, headers=ALICE), 403)


def test_an_api_key_header_works_like_a_bearer_token(client):
    assert submit_status(client, {"x-api-key": "a"}) == 200


@pytest.mark.parametrize("user", ["", "alice", "anybody", "a"])
def test_the_password_of_basic_credentials_works_like_a_bearer_token(client, user):
    credentials = base64.b64encode(f"{user}:a".encode()).decode()
    assert submit_status(client, {"Authorization": f"Basic {credentials}"}) == 200


def test_a_token_in_the_path_opens_every_route_below_it():
    client = make_client(tokens_in_paths=True, **TOKENS)
    for token, headers in (("a", {}), ("a", {"Authorization": "Bearer ollama"})):
        assert client.get(f"/t/{token}/api/tags", headers=headers).status_code == 200
        assert client.head(f"/t/{token}/", headers=headers).status_code == 200
        assert client.head(f"/t/{token}", headers=headers).status_code == 200
        assert client.get(f"/t/{token}/v1/models/a/b?x=1", headers=headers).status_code == 404
    assert client.post("/t/a/submit", json={"prompt": "hi"}).status_code == 200
    assert client.get("/t/w/task?worker=x").get_json()["prompt"] == "hi"
    assert client.get("/t/a/task").status_code == 403
    assert client.get("/t/wrong/api/tags").status_code == 401
    assert client.get("/t/wrong/api/tags", headers=ALICE).status_code == 401
    assert client.get("/t//api/tags").status_code == 404
    assert client.get("/api/tags").status_code == 401


def test_tokens_in_paths_mean_nothing_unless_they_are_allowed():
    client = make_client(**TOKENS)
    answer = client.get("/t/a/api/tags")
    assert "/t/" not in refusal(answer, 404)
    assert client.get("/t/a/api/tags", headers=ALICE).status_code == 404


def test_an_error_in_the_shape_of_the_path_behind_the_token():
    client = make_client(tokens_in_paths=True, **TOKENS)
    assert client.get("/t/a/v1/nothing").get_json()["error"]["type"] == "not_found_error"


def test_healthz_needs_no_token(client):
    assert client.get("/healthz").status_code == 200


def test_both_kinds_of_token_open_the_status(client):
    assert client.get("/status", headers=ALICE).status_code == 200
    assert client.get("/status", headers=GPU_1).status_code == 200


def test_an_app_with_a_route_that_declares_no_token_cannot_be_made(monkeypatch):
    monkeypatch.setattr(operations.routes, "token_kinds", dict)
    with pytest.raises(LookupError, match=r"declared for healthz, metrics, openapi, status\.$"):
        make_client()


def test_a_result_is_shown_to_its_owner_and_unknown_to_everyone_else(client):
    task_id = submit(client, headers=ALICE)
    outcome = {"task_id": task_id, "lease_id": claim(client, headers=GPU_1)["lease_id"]}
    client.post("/task", json={**outcome, "result": "42"}, headers=GPU_1)
    of_alice = client.get(f"/result/{task_id}", headers=ALICE)
    of_bob = client.get(f"/result/{task_id}", headers=BOB)
    unknown = client.get("/result/999", headers=BOB)
    assert of_alice.get_json()["result"] == "42"
    assert (of_bob.status_code, of_bob.data) == (unknown.status_code, unknown.data)
    assert of_bob.status_code == 404


def test_a_task_is_cancelled_by_its_owner_only(client):
    submit(client, headers=ALICE)
    statuses = [client.delete("/result/1", headers=headers).status_code
                for headers in (BOB, GPU_1, {}, ALICE)]
    assert statuses == [404, 403, 401, 200]


def test_users_have_separate_idempotency_keys(client):
    ids = [submit(client, headers={**who, "Idempotency-Key": "k"}) for who in (ALICE, BOB, ALICE)]
    assert ids == [1, 2, 1]


@pytest.mark.parametrize(("claimed_by", "status"), [(GPU_1, 200), (GPU_2, 409), (None, 409)])
def test_without_a_lease_id_only_the_worker_that_holds_a_task_completes_it(
    client, claimed_by, status
):
    task_id = submit(client, headers=ALICE)
    if claimed_by:
        claim(client, headers=claimed_by)
    outcome = {"task_id": task_id, "result": "42"}
    assert client.post("/task", json=outcome, headers=GPU_1).status_code == status


def test_claims_take_turns_between_users_oldest_first(client):
    many = [submit(client, headers=ALICE) for _ in range(5)]
    late = [submit(client, headers=BOB) for _ in range(2)]
    order = [claim(client, headers=GPU_1)["task_id"] for _ in range(7)]
    assert order == [many[0], late[0], many[1], late[1], *many[2:]]


def test_the_queue_position_counts_the_turns_of_other_users(client):
    for _ in range(5):
        submit(client, headers=ALICE)
    task_id = submit(client, headers=BOB)
    answer = client.get(f"/result/{task_id}", headers=BOB)
    assert answer.get_json()["queue_position"] == 2


def test_a_user_with_too_many_queued_tasks_is_refused_and_others_are_not():
    client = make_client(**TOKENS, max_queued_tasks_per_user=3)
    for _ in range(3):
        submit(client, headers=ALICE)
    answer = client.post("/submit", json={"prompt": "hi"}, headers=ALICE)
    assert "queued" in refusal(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    submit(client, headers=BOB)


def test_the_tasks_of_one_user_fill_at_most_half_of_the_store():
    client = make_client(**TOKENS, max_store_bytes=1024 * 1024)
    statuses = [
        client.post("/submit", json={"prompt": "x" * 100_000}, headers=ALICE).status_code
        for _ in range(7)
    ]
    assert statuses == [200] * 5 + [503] * 2
    submit(client, "x" * 100_000, headers=BOB)


def test_a_token_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "users"
    path.write_text("# our users\nalice:a  # on her laptop\n\n")
    client = make_client(user_tokens_file=str(path), worker_tokens="gpu-1:w")
    submit(client, headers=ALICE)
    path.write_text(f"bob:sha256:{B_DIGEST}\n")
    assert submit_status(client, ALICE) == 401
    submit(client, headers=BOB)


def test_a_token_in_a_file_may_contain_a_number_sign_and_have_spaces_around_it(tmp_path):
    path = tmp_path / "users"
    path.write_text("alice: a#secret  # a comment\n")
    tokens = Tokens(USER, "", str(path))
    assert tokens.name_of("a#secret") == "alice"
    assert tokens.name_of("a") is None


def test_an_empty_token_file_admits_nobody(tmp_path):
    path = tmp_path / "users"
    path.write_text("# nobody yet\n")
    assert submit_status(make_client(user_tokens_file=str(path)), ALICE) == 401


def test_a_malformed_line_leaves_the_tokens_read_before_valid_and_is_logged_once(
    tmp_path, caplog
):
    path = tmp_path / "users"
    path.write_text("alice:a\n")
    client = make_client(user_tokens_file=str(path), worker_tokens="gpu-1:w")
    path.write_text("alice:a\nbob:b\ncarol c-secret\n")
    assert [submit_status(client, ALICE) for _ in range(3)] == [200] * 3
    assert submit_status(client, BOB) == 401
    assert caplog.text.count(f"Line 3 of USER_TOKENS_FILE {path} must be name:token.") == 1
    assert "stay valid" in caplog.text and "secret" not in caplog.text
    path.write_text("bob:b\n")
    assert [submit_status(client, who) for who in (ALICE, BOB)] == [401, 200]
    path.write_text("bob:\n")
    assert submit_status(client, BOB) == 200
    assert caplog.text.count("stay valid") == 2


def test_a_token_file_that_is_missing_for_a_moment_locks_nobody_out(tmp_path, caplog):
    path = tmp_path / "users"
    path.write_text("alice:a\n")
    client = make_client(user_tokens_file=str(path), worker_tokens="gpu-1:w")
    for _ in range(2):
        os.rename(str(path), str(path) + "~")
        assert [submit_status(client, ALICE) for _ in range(3)] == [200] * 3
        os.rename(str(path) + "~", str(path))
        submit(client, headers=ALICE)
    assert caplog.text.count(f"USER_TOKENS_FILE {path} cannot be read: No such file") == 2
    path.write_text("")
    assert submit_status(client, ALICE) == 401


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbfalice:a\r\nbob:b\r\n", b"alice:a\rbob:b", b"\n\n alice : a \n\tbob:b\x0b\x00\n\n",
    "\u200balice:\u00a0a\ufeff\nbob:b\u2060  # a comment".encode(),
    "alice:a\r\nbob:b\r\n".encode("utf-16"),
])
def test_a_token_file_is_read_as_editors_of_any_system_leave_it(tmp_path, content):
    path = tmp_path / "users"
    path.write_bytes(content)
    tokens = Tokens(USER, "", str(path))
    assert (tokens.name_of("a"), tokens.name_of("b")) == ("alice", "bob")


@pytest.mark.parametrize("text", [
    "alice:a,bob:b", "alice:a\nbob:b\n", " alice:a ,\r\n\ufeffbob:b,",
    "\u200balice:a\u200b, bob: b",
])
def test_tokens_in_a_setting_are_separated_by_commas_or_line_breaks(text):
    tokens = Tokens(USER, text, "")
    assert (tokens.name_of("a"), tokens.name_of("b")) == ("alice", "bob")


@pytest.mark.parametrize(("line", "reason"), [
    (b"bob:s3\xe2\x80\x8bcret", "the token must contain only printable ASCII characters, but its "
                               "character 3 is U+200B"),
    (b"b\xe2\x80\x8bob:s3cret", "the name must not contain invisible characters, but its "
                              "character 2 is U+200B"),
    (b"bob:s3cr\xe9t", "character 5 is U+FFFD"),
    (b"bob s3cret", "must be name:token"), (b":s3cret", "must be name:token"),
    (b"b" * 201 + b":s3cret", "the name must be 1 to 200"),
])
def test_a_malformed_line_is_named_at_start_without_its_token(tmp_path, line, reason):
    path = tmp_path / "workers"
    path.write_bytes(b"alice:a\n# a comment\n" + line + b"\n")
    with pytest.raises(config.SettingError) as caught:
        Tokens(WORKER, "", str(path))
    message = str(caught.value)
    assert message.startswith(f"Line 3 of WORKER_TOKENS_FILE {path}") and reason in message
    assert "cret" not in message and message.isprintable()


@pytest.mark.parametrize("text", [
    "alice", "alice:", ":secret", "alice:sha256:abc", "alice:sha256:" + "g" * 64, "alice:gehe\xefm",
])
def test_malformed_tokens_are_refused_at_start_and_never_shown(text):
    with pytest.raises(config.SettingError, match="USER_TOKENS") as caught:
        Tokens(USER, text, "")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("users", "workers", "places"), [
    ("a:s3cret,b:s3cret", "", "Entry 2 of USER_TOKENS and entry 1 of USER_TOKENS"),
    ("a:s3cret", "gpu:s3cret", "Entry 1 of WORKER_TOKENS and entry 1 of USER_TOKENS"),
    ("a:s3cret", "a:s3cret", "Entry 1 of WORKER_TOKENS and entry 1 of USER_TOKENS"),
    ("a:s3cret,b:sha256:" + hashlib.sha256(b"s3cret").hexdigest(), "", "Entry 2 of USER_TOKENS"),
])
def test_a_token_of_two_owners_is_refused_at_start_by_its_places(users, workers, places):
    with pytest.raises(config.SettingError, match=f"^{places} .*have the same token") as caught:
        Guard(dataclasses.replace(config.Settings(), user_tokens=users, worker_tokens=workers))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("content", ["bob:a\n", "bob:w\n"])
def test_a_file_with_the_token_of_another_owner_is_refused_at_start(tmp_path, content):
    path = tmp_path / "users"
    path.write_text("# one of ours\n" + content)
    with pytest.raises(config.SettingError, match=f"ine 2 of USER_TOKENS_FILE {path} "):
        make_client(user_tokens="alice:a", user_tokens_file=str(path), worker_tokens="gpu-1:w")


def test_one_name_may_have_a_token_twice(tmp_path):
    path = tmp_path / "users"
    path.write_text("alice:a\nalice:a\n")
    assert Tokens(USER, "alice:a", str(path)).name_of("a") == "alice"


@pytest.mark.parametrize("line", ["bob:a", "bob:w"])
def test_a_changed_file_with_the_token_of_another_owner_changes_nothing(tmp_path, caplog, line):
    path = tmp_path / "users"
    path.write_text("alice:a\n")
    client = make_client(user_tokens_file=str(path), worker_tokens="gpu-1:w")
    path.write_text(f"alice:a\n{line}\n")
    for _ in range(3):
        assert submit_status(client, ALICE) == 200
        assert submit_status(client, {"Authorization": "Bearer w"}) == 403
    assert caplog.text.count("have the same token") == 1 and "stay valid" in caplog.text
    path.write_text("bob:b\n")
    assert [submit_status(client, who) for who in (ALICE, BOB)] == [401, 200]


def test_a_token_can_move_between_the_files_of_users_and_workers(tmp_path, caplog):
    users, workers = tmp_path / "users", tmp_path / "workers"
    users.write_text("alice:a\n")
    workers.write_text("gpu-1:w\n")
    client = make_client(user_tokens_file=str(users), worker_tokens_file=str(workers))
    submit(client, headers=ALICE)
    # A file of the same size might have the same time, too.
    workers.write_text("gpu-1: a\n")
    assert submit_status(client, ALICE) == 200
    assert caplog.text.count("have the same token") == 1
    users.write_text("alice: w\n")
    assert submit_status(client, ALICE) == 403
    assert submit_status(client, {"Authorization": "Bearer w"}) == 200


def test_a_missing_token_file_is_refused_at_start():
    with pytest.raises(config.SettingError, match="/no/such/file cannot be read"):
        Tokens(WORKER, "", "/no/such/file")


def test_a_token_is_generated_for_each_kind_that_has_none():
    guard = Guard(dataclasses.replace(config.Settings(), worker_tokens="gpu:w"))
    generated = guard.generate_missing_tokens()
    assert list(generated) == ["user"]
    assert guard.users.name_of(generated["user"]) == "default"
    lines = []
    print_new_tokens(generated, "http://host:5000", lines.append)
    assert any(f"USER_TOKEN={generated['user']} " in line for line in lines)
    assert not any("WORKER_TOKEN" in line for line in lines)
