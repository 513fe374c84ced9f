"""What tests do without a service that they need: they are skipped, but fail under CI=true."""
from __future__ import annotations

import os
from typing import Optional

import pytest


def require_service(reason_missing: Optional[str]) -> None:
    """Skip or fail the test with a reason why a service is missing; None means it is there."""
    if not reason_missing:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason_missing)
    pytest.skip(reason_missing)
