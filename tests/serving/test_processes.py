"""Several processes behind one WSGI server: only with tasks in Redis."""
from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.routes import make_client, refusal

SEVERAL = {"wsgi.multiprocess": True}


@pytest.mark.parametrize("store", ["memory:", "sqlite"])
def test_several_processes_without_shared_tasks_are_refused_and_logged_once(
    store: str, tmp_path: Any, caplog: Any
) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db" if store == "sqlite" else store
    client = make_client(task_store=url)
    with caplog.at_level(logging.ERROR):
        for path in ("/healthz", "/task", "/result/1", "/nothing"):
            answer = client.get(path, environ_overrides=SEVERAL)
            assert "TASK_STORE=redis:" in refusal(answer, 503)
            assert answer.headers["Llm-Tasks"] == "1"
        for path in ("/submit", "/task/exchange", "/task/1/answer", "/api/chat"):
            answer = client.post(path, data=b"{", environ_overrides=SEVERAL)
            assert "TASK_STORE=redis:" in refusal(answer, 503)
    assert [record.message for record in caplog.records if "Several processes" in record.message] \
        == [client.get("/healthz", environ_overrides=SEVERAL).get_json()["error"]]
    assert client.get("/healthz").status_code == 200


def test_several_processes_with_tasks_in_redis_are_served(redis_server: str) -> None:
    client = make_client(task_store=f"{redis_server}?prefix=several")
    assert client.post("/task/exchange", data=b"{", environ_overrides=SEVERAL).status_code == 400
    assert client.get("/healthz", environ_overrides=SEVERAL).status_code == 200
