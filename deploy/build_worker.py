"""Build llm_server.pyz, the LLM Server in one file: `python deploy/build_worker.py [FILE]`.

The file runs on any machine with Python and requests: `python llm_server.pyz`. The same sources
give the same bytes, so two builds can be compared.
"""
from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "config.py", ROOT / "llm_server.py",
           *(path for folder in ("console", "transport", "worker")
             for path in sorted(ROOT.glob(f"{folder}/**/*.py")))]
MAIN = "import llm_server\n\nllm_server.main()\n"
# The earliest time that a zip file can hold; a file's own time would change the bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def build(target: Path) -> None:
    """Write the archive; `__main__.py` in it is what Python runs."""
    files = {str(path.relative_to(ROOT).as_posix()): path.read_text("utf-8") for path in SOURCES}
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        # Stored, because compressed bytes depend on the version of zlib.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, source in {**files, "__main__.py": MAIN}.items():
                archive.writestr(zipfile.ZipInfo(name, EPOCH), source)
    target.chmod(0o755)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "llm_server.pyz"
    build(target)
    print(f"Built {target}. Copy it to the machine with Ollama, and run: python {target.name}")
