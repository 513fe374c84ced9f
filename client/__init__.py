"""The parts of test.py. They use transport, and nothing else of the project."""
