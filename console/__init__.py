"""A program towards its user: text made printable, logs, streams, and signals that end it."""
