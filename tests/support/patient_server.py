"""A Manage Server whose gateway sends no keep-alives, however busy the machine is."""
from __future__ import annotations

import sys

import manage_server
from manage.gateway import answer

if __name__ == "__main__":
    answer.GRACE_SECONDS = answer.KEEP_ALIVE_SECONDS = 10_000.0
    sys.exit(manage_server.main())
