"""What a worker asks for, as a body and as a URL. It sends nothing."""
from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Sized
from urllib.parse import quote

from transport.sessions import to_json
from worker.protocol.task import REQUESTED_LEASE_SECONDS

Json = Dict[str, Any]

# The models in a claim's body, which must stay below a megabyte; and in a URL, where gunicorn takes
# 4094 bytes of request line.
MAX_BODY_MODELS_BYTES = 900 * 1024
MAX_QUERY_MODELS_BYTES = 3000


class Claim(NamedTuple):
    """What a worker asks for; `instance` tells it from others of the same name."""

    worker: str
    instance: str
    models: Sequence[str]
    wait_seconds: float = 0.0
    lease_seconds: float = REQUESTED_LEASE_SECONDS
    # What a Manage Server with more than the four endpoints is told besides.
    report: Mapping[str, Any] = {}

    def to_body(self) -> Json:
        models = _fitting(self.models, MAX_BODY_MODELS_BYTES, lambda model: to_json({"": model}))
        return {"worker": self.worker, "instance": self.instance, "models": models,
                "lease": self.lease_seconds, "wait": self.wait_seconds, "relays": True,
                **self.report}

    def to_query(self) -> Json:
        """Return the parameters of GET /task, where models are separated by commas."""
        models = _fitting([model for model in self.models if "," not in model],
                          MAX_QUERY_MODELS_BYTES, lambda model: quote(model + ",", safe=""))
        return {"worker": self.worker, "models": ",".join(models),
                "lease": self.lease_seconds, "wait": self.wait_seconds}

    def describe_ignored(self, ignored: int) -> str:
        """Say that so many of the models count for nothing."""
        return (f"The Manage Server gives this worker no tasks for {ignored} of its "
                f"{len(self.models)} models: their names are too long or too many for it.")


def _fitting(models: Sequence[str], room: int, encode: Callable[[str], Sized]) -> List[str]:
    """Return the first models whose encoded forms fit into `room` bytes."""
    fitting = []
    for model in models:
        room -= len(encode(model))
        if room < 0:
            break
        fitting.append(model)
    return fitting
