"""Following a task while it runs, and the formats of a stream."""
