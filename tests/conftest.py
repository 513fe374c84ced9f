"""For all tests: what they inherit from whoever started them does not matter."""
from __future__ import annotations

import signal

# A shell starts what it puts into the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
