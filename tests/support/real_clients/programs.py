"""The program `llm`, unmodified, in a process of its own."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Dict, Iterator, List

from tests.support.processes import TIMEOUT_SECONDS
from tests.support.real_clients.base import IMAGE, PROMPT, Failure, RealClient


class ProgramFailed(Exception):
    """The text is what it wrote to stderr."""


class Llm(RealClient):
    """The program `llm` with its plugin llm-ollama, which asks for the list of models first."""

    package = "llm_ollama"
    can_use_tools = False
    is_program = True
    prefix = "ollama/"

    def _environ(self) -> Dict[str, str]:
        assert self.folder
        kept = {name: value for name, value in os.environ.items()
                if not name.lower().endswith("_proxy")}
        # The plugin that brings the small model of the demo does not work without llama-cpp-python.
        return {**kept, "LLM_USER_PATH": str(self.folder), "LLM_LOAD_PLUGINS": "llm-ollama",
                "OLLAMA_HOST": self.url,
                "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8",
                **({"OLLAMA_API_KEY": self.token} if self.token else {})}

    def command(self, model: str, *options: str, image: bool = False, **more: Any) -> List[str]:
        attachment = []
        if image:
            assert self.folder
            path = self.folder / "image.png"
            path.write_bytes(IMAGE)
            attachment = ["-a", str(path)]
        return [sys.executable, "-m", "llm", "prompt", "-m", self.prefix + model,
                *attachment, *options, PROMPT]

    def run(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=self._environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8")

    def whole(self, model: str, **more: Any) -> str:
        with self.run(*self.command(model, "--no-stream", **more)) as process:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        if process.returncode:
            raise ProgramFailed(err)
        return out.rstrip("\n")

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        with self.run(*self.command(model, **more)) as process:
            assert process.stdout and process.stderr
            try:
                for character in iter(lambda: process.stdout.read(1), ""):
                    if character != "\n":
                        yield character
            finally:
                process.kill()
            if process.wait(TIMEOUT_SECONDS) > 0:
                raise ProgramFailed(process.stderr.read())

    def failure(self, error: BaseException) -> Failure:
        if not isinstance(error, ProgramFailed):
            raise error
        return Failure(None, str(error))


class LlmOpenAI(Llm):
    """The program `llm` with a model of its own list, which it asks as OpenAI's."""

    package = "llm"
    prefix = ""

    def command(self, model: str, *options: str, image: bool = False, **more: Any) -> List[str]:
        assert self.folder
        entry = {"model_id": model, "model_name": model, "api_base": f"{self.url}/v1",
                 "api_key_name": "tasks", "vision": True}
        (self.folder / "keys.json").write_text(json.dumps({"tasks": self.token or "none"}))
        # JSON is YAML, too.
        (self.folder / "extra-openai-models.yaml").write_text(json.dumps([entry]))
        return super().command(model, *options, image=image)

    def _environ(self) -> Dict[str, str]:
        # Port 9 has no Ollama, whose models would hide ours.
        return {**super()._environ(), "OLLAMA_HOST": "http://127.0.0.1:9"}
