"""What a worker has in hand, and which requests are due for it. It knows no threads."""
