"""Submits a prompt to the Manage Server and shows the answer as it is written.

From Python: `submit_task(prompt, model)` and `wait_for_result(task_id)`.
"""
from __future__ import annotations

import sys

from client.manage_client import TaskError, main, submit_task, wait_for_result

__all__ = ["TaskError", "main", "submit_task", "wait_for_result"]

if __name__ == "__main__":
    sys.exit(main())
