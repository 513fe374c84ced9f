"""A Manage Server that waits for tenths of a second before and between keep-alives."""
from __future__ import annotations

import sys

import manage_server
from manage.gateway import answer

if __name__ == "__main__":
    answer.GRACE_SECONDS = answer.KEEP_ALIVE_SECONDS = 0.2
    sys.exit(manage_server.main())
