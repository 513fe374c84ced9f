"""Reading requests: bodies, query strings and headers."""
