"""The worker's side of the protocol with the Manage Server. It knows nothing of Ollama."""
from __future__ import annotations

import contextlib
import json
from typing import Any, Dict, NamedTuple, Optional, Tuple

import requests

import config
from worker.http import ANSWER_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, make_session

Json = Dict[str, Any]

# A dead worker is noticed within this time.
REQUESTED_LEASE_SECONDS = 30


class ServerDown(Exception):
    """The Manage Server is unreachable, or something else answers in its place."""


class AccessDenied(Exception):
    """The Manage Server does not accept this worker's token; retrying would not help."""

    def __init__(self, url: str, error: str) -> None:
        self.reason = f"{error} Set WORKER_TOKEN to one of its worker tokens."
        url = config.without_password(url)
        super().__init__(f"the Manage Server at {url} denies access: {self.reason}")


class TaskLost(Exception):
    """The task is cancelled, final, or another worker's."""


class Lease(NamedTuple):
    """The right to a task; `lease_id` is None when the Manage Server gives no leases."""

    task_id: int
    lease_id: Optional[str]
    seconds: float


class ManageClient:
    """A client of the Manage Server. An instance may be used by one thread at a time.

    Every method may raise ServerDown and AccessDenied.
    """

    def __init__(self, settings: config.Settings) -> None:
        self.url = settings.manage_server_url
        self._session = make_session(requests.utils.get_environ_proxies(self.url))
        self._session.headers["Content-Type"] = "application/json"
        if settings.worker_token:
            self._session.headers["Authorization"] = f"Bearer {settings.worker_token}"

    def claim(self, params: Json) -> Json:
        """Claim a task and return it as submitted; return {} when there is none.

        `params` are those of GET /task; with `wait`, the server holds the request that long.
        """
        status, body = self._request("GET", "/task", float(params.get("wait", 0)), params=params)
        if status != 200 or (body and not {"task_id", "prompt", "model"} <= set(body)):
            raise ServerDown(f"it answered {status} {body.get('error', 'without a task')}")
        return body

    def send_outcome(self, outcome: Json) -> Tuple[int, Json]:
        """Send the body of POST /task; return status and body of the answer."""
        return self._request("POST", "/task", body=outcome)

    def send_progress(self, lease: Lease, text: Json) -> Json:
        """Renew the lease, and send `text`, which may be empty. Raises TaskLost.

        Returns the server's answer; a server that refuses the text answers without an `offset`.
        """
        # A renewal that takes longer than the lease is useless.
        timeout_seconds = max(1.0, lease.seconds / 3)
        status, answer = self._request(
            "POST", f"/task/{lease.task_id}/progress", timeout_seconds - ANSWER_TIMEOUT_SECONDS,
            body={"lease_id": lease.lease_id, **text})
        if status in (404, 409):
            raise TaskLost(str(answer.get("error") or "It is no longer this worker's."))
        # The server may refuse the text, because the result will bring all of it again.
        if status != 200 and not (status in (400, 413) and text):
            raise ServerDown(f"it answered {status} {answer.get('error', '')}")
        return answer if status == 200 else {}

    def get_status(self) -> Json:
        """Return the body of GET /status."""
        status, body = self._request("GET", "/status")
        if status != 200:
            raise ServerDown(f"it answered {status} {body.get('error', '')}")
        return body

    def _request(self, method: str, path: str, wait_seconds: float = 0.0,
                 body: Optional[Json] = None, params: Optional[Json] = None) -> Tuple[int, Json]:
        # With JSON's escapes, a character would take up to twelve bytes.
        data = body and json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        timeout = (CONNECT_TIMEOUT_SECONDS, wait_seconds + ANSWER_TIMEOUT_SECONDS)
        # The other side may have closed a kept connection, so each request gets a second try.
        # Repeating is safe: the lease returns a lost claim, and outcomes are idempotent.
        for is_last in (False, True):
            try:
                return self._parse(self._session.request(
                    method, self.url + path, params=params, data=data, timeout=timeout,
                    allow_redirects=False,
                ))
            except requests.Timeout:
                raise ServerDown("it did not answer in time") from None
            except requests.RequestException as error:
                if is_last or not isinstance(error, requests.ConnectionError):
                    break
        raise ServerDown("is it running, and is MANAGE_SERVER_URL right?")

    def _parse(self, response: requests.Response) -> Tuple[int, Json]:
        body: Any = None
        with contextlib.suppress(ValueError):
            body = response.json()
        status = response.status_code
        if response.is_redirect:
            location = response.headers["Location"]
            raise ServerDown(f"it redirects to {location}; is MANAGE_SERVER_URL right?")
        if status == 413 and not isinstance(body, dict):
            body = {"error": "A proxy refused it as too large (413)."}
        if not isinstance(body, dict) or status >= 500 or status in (408, 429):
            raise ServerDown(_describe(status, body))
        if status in (401, 403):
            raise AccessDenied(self.url, str(body.get("error", "")))
        return status, body


def _describe(status: int, body: Any) -> str:
    if isinstance(body, dict) and "error" in body:
        return f"it answered {status} {body['error']}"
    return f"something else answers there, with HTTP status {status}; is MANAGE_SERVER_URL right?"
