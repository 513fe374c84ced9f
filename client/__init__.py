"""The parts of test.py. They know HTTP and files, and nothing else of this project."""
