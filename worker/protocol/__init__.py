"""The worker's side of the protocol with the Manage Server: requests, and what they say."""
