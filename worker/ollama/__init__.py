"""Ollama: its API, its answers while they are read, and what it has. It knows no tasks."""
