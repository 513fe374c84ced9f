"""Short ways to ask a server for streams, and to be its worker; it knows no pytest."""
from __future__ import annotations

import dataclasses
import io

import config
import manage_server
from tests.support.sse import Event, parse

STORY = "Why?\n\ndata: e\u0301 \U0001f600\U0001f468\u200d\U0001f469 \u2028\x85\r\n:end"


def client_of(store, **settings):
    return manage_server.create_app(
        dataclasses.replace(config.Settings(), **settings), store
    ).test_client()


def start(client, **fields):
    """Submit and claim; the id and the lease."""
    client.post("/submit", json={"prompt": "hi", **fields})
    claim = client.get("/task").get_json()
    return claim["task_id"], claim["lease_id"]


def send(client, task_id, lease_id, offset, **texts):
    answer = client.post(f"/task/{task_id}/progress",
                         json={"lease_id": lease_id, "offset": offset, **texts})
    assert answer.status_code == 200
    return answer.get_json()["offset"]


def complete(client, task_id, lease_id, result, **more):
    body = {"task_id": task_id, "lease_id": lease_id, "result": result, **more}
    assert client.post("/task", json=body).status_code == 200


def get(client, task_id=1, last_id=None, **headers):
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    return client.get(f"/result/{task_id}/stream", headers=headers)


def items(client, *args, **headers):
    answer = get(client, *args, **headers)
    assert answer.status_code == 200
    return list(parse(io.BytesIO(answer.data)))


def told(client, *args):
    return [item for item in items(client, *args) if isinstance(item, Event)]


def names(found):
    return [event.name for event in found]
