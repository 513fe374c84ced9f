"""Serving the app until a signal ends it."""
