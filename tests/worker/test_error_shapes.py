"""The worker's own errors have the shapes that the Manage Server gives its errors."""
from __future__ import annotations

import pytest

from manage.error_shapes import error_fields
from worker.ollama.relay import _error_body

PATHS = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/chat/completions",
         "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [400, 403])
def test_an_error_looks_as_if_the_manage_server_had_made_it(path, status):
    assert _error_body(path, status, "No.") == error_fields(path, "No.", status)
