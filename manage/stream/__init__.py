"""Following a task while it runs, and the formats in which it is told."""
