"""What Ollama's answers look like, path by path; it knows no HTTP."""
from __future__ import annotations

from typing import Dict

from tests.support.wires.anthropic import Messages
from tests.support.wires.base import Reply, Wire
from tests.support.wires.native import Embeddings, Native
from tests.support.wires.openai import ChatCompletions, Completions, Responses

__all__ = ["WIRES", "Reply", "Wire"]

WIRES: Dict[str, Wire] = {
    "/api/generate": Native(is_chat=False),
    "/api/chat": Native(is_chat=True),
    "/api/embed": Embeddings("/api/embed"),
    "/api/embeddings": Embeddings("/api/embeddings"),
    "/v1/chat/completions": ChatCompletions(),
    "/v1/completions": Completions(),
    "/v1/embeddings": Embeddings("/v1/embeddings"),
    "/v1/responses": Responses(),
    "/v1/messages": Messages(),
}
