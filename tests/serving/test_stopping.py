"""A signal ends the Manage Server whatever it does at that moment."""
from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, TIMEOUT_SECONDS

PROGRAM = """
import os, signal, threading
from manage.serving.stopping import Stopping

class InterruptedAtItsEnd:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        print("The signal came later")

Stopping(lambda: print("answered")).listen_for_signals()
InterruptedAtItsEnd()
threading.Event().wait(60)
print("not stopped")
"""


@pytest.mark.skipif(sys.version_info < (3, 8), reason="Python 3.7 has no sys.unraisablehook")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timer for it")
def test_a_signal_that_comes_while_an_object_is_closed_ends_the_server() -> None:
    program = subprocess.run([sys.executable, "-c", PROGRAM], cwd=str(ROOT), capture_output=True,
                             timeout=TIMEOUT_SECONDS)
    assert (program.stdout, program.stderr, program.returncode) == (b"answered\n", b"", 0)
