"""The LLM Server's parts. They use config and transport, and nothing else of the project."""
