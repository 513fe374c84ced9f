"""The LLM Server's parts. They know config and HTTP, and nothing else of the project."""
