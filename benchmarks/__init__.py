"""Benchmarks of the Manage Server without a model: `python -m benchmarks`, or `make bench`."""
