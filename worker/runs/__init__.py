"""One task: run it on Ollama, tell how far it is, and deliver what became of it."""
