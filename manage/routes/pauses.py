"""Answers that pause until their task changes, so that no thread waits; it knows no formats."""
from __future__ import annotations

from typing import Any, ContextManager, Dict, Optional

from manage.context import Context
from manage.serving.connections import allow_pauses


def watching_task(
    context: Context, environ: Dict[str, Any], task_id: int
) -> Optional[ContextManager[None]]:
    """Return a context: within it, the answer to a request may pause until a task changes.

    None if the answer has to wait in its thread, because the store may wait, or the server can
    do nothing else.
    """
    if not context.store.never_waits:
        return None
    resume = allow_pauses(environ)
    return None if resume is None else context.store.watch(task_id, resume)
