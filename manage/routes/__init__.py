"""The routes, a module for each group of URLs: each view parses, calls one verb and answers."""
