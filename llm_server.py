"""The LLM Server: claims tasks from the Manage Server, runs them on Ollama, delivers results."""
from __future__ import annotations

from worker.slots import call_ollama, check_for_task, main, send_result_to_azure

__all__ = ["call_ollama", "check_for_task", "main", "send_result_to_azure"]

if __name__ == "__main__":
    main()
