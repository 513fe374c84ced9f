"""What test.py needs for more than one prompt."""
