"""The LLM Server's parts. They use config and HTTP, and nothing else of the project."""
