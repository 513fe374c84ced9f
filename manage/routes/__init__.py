"""The URLs: each module parses, calls one verb of the store, and answers."""
