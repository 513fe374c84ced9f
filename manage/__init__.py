"""The Manage Server's HTTP side."""
