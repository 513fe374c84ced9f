"""When two names of a model are the same to Ollama. It knows nothing of Ollama's lists."""
from __future__ import annotations


def model_key(model: str) -> str:
    """Return the full name of a model, equal for all names that Ollama takes for the same model.

    The Manage Server compares names by the same rules, in taskstore/names.py, which this file must
    run without; tests/worker/test_releases.py compares the two.
    """
    name = model.strip().lower()
    if ":" not in name.rpartition("/")[2]:
        name += ":latest"
    if "/" not in name:
        return name
    if name.startswith(("https://", "http://")):
        name = name.partition("://")[2]
    if name.count("/") == 2 and name.startswith("registry.ollama.ai/"):
        name = name.partition("/")[2]
    if name.count("/") == 1 and name.startswith("library/"):
        name = name.partition("/")[2]
    return name
