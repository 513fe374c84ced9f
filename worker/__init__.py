"""The LLM Server's parts. They use config and transport, and nothing else of the project.

From the bottom up: `ollama` and `protocol` speak with one server each, `runs` brings a task from
one to the other, `stock` decides what is due, and `threads` do it.
"""
