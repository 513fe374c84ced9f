"""What reaches a log or a terminal: text from outside, made printable."""
