"""Clients that people have, from PyPI and unmodified, each behind the same few methods.

A client is given the URL of a server that stands in for Ollama, and a token; it does not know
which server that is. Importing this package imports none of the clients.
"""
from __future__ import annotations

import importlib.util
import sys
from typing import Any, Dict

import pytest

from tests.support.real_clients.base import IMAGE
from tests.support.real_clients.ollama_clients import LangChain, Ollama, OllamaGenerate
from tests.support.real_clients.programs import Llm, LlmOpenAI
from tests.support.real_clients.sdks import (
    Anthropic,
    OpenAI,
    OpenAICompletions,
    OpenAIResponses,
)
from tests.support.services import require_service

__all__ = ["CLIENTS", "IMAGE", "need"]

CLIENTS: Dict[str, Any] = {
    "ollama chat": Ollama, "ollama generate": OllamaGenerate, "openai chat": OpenAI,
    "openai completions": OpenAICompletions, "openai responses": OpenAIResponses,
    "anthropic": Anthropic, "langchain-ollama": LangChain, "llm-ollama": Llm,
    "llm openai": LlmOpenAI,
}


def need(package: str) -> None:
    """Skip or fail the test if the package is not installed."""
    is_missing = importlib.util.find_spec(package) is None
    if is_missing and sys.version_info < (3, 10):
        pytest.skip(f"{package} has no current version for this Python")
    require_service(f"{package} is not installed: pip install -r tests/clients.txt"
                    if is_missing else None)
