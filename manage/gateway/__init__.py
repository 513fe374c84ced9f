"""Ollama's, OpenAI's and Anthropic's APIs: what is said in them, apart from who asks and who runs.
"""
