"""Clients that people have, from PyPI and unmodified, each behind the same few methods.

A client is given the URL of a server that stands in for Ollama, and a token; it does not know
which server that is. Importing this module imports none of the packages.
"""
from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

from tests.support.processes import TIMEOUT_SECONDS
from tests.support.services import require_service

PROMPT = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": PROMPT}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER_TOOL = {"type": "function", "function": {
    "name": "weather", "description": "The weather in a city.", "parameters": WEATHER}}
# The smallest PNG: one pixel.
IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg==")
IMAGE_URL = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
Calls = List[Tuple[str, Dict[str, Any]]]


class Failure(NamedTuple):
    """What a client says of an error; the status is None where it has none."""

    status: Optional[int]
    text: str


class RealClient:
    """A client of a server; `calls` are the tools that its last answer calls."""

    package = ""
    can_use_tools = True
    can_see = True
    # Starting a program costs a second, so that not everything is tried with those.
    is_program = False
    requests_on_500 = 1

    def __init__(self, url: str, token: str = "", folder: Optional[Path] = None) -> None:
        self.url = url
        self.token = token
        # Where a program may keep its files.
        self.folder = folder
        self.calls: Calls = []
        self.start()

    def start(self) -> None:
        """Make the package's own client."""

    def whole(self, model: str, **more: Any) -> str:
        """Ask for the text of an answer that is not streamed."""
        raise NotImplementedError

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        """Stream an answer. Closing the iterator hangs up."""
        raise NotImplementedError

    def failure(self, error: BaseException) -> Failure:
        raise error

    def text(self, model: str, streams: bool, **more: Any) -> str:
        self.calls = []
        return "".join(self.pieces(model, **more)) if streams else self.whole(model, **more)


class Ollama(RealClient):
    """The package `ollama`, with chat."""

    package = "ollama"

    def start(self) -> None:
        import ollama

        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        self.client = ollama.Client(host=self.url, headers=headers, timeout=TIMEOUT_SECONDS)

    def _options(self, tool: bool = False, image: bool = False) -> Dict[str, Any]:
        message = {**MESSAGES[0], **({"images": [IMAGE]} if image else {})}
        return {"messages": [message], "tools": [WEATHER_TOOL] if tool else None}

    def whole(self, model: str, **more: Any) -> str:
        return self._read(self.client.chat(model, **self._options(**more)))

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        yield from _closing(self.client.chat(model, stream=True, **self._options(**more)),
                            self._read)

    def _read(self, answer: Any) -> str:
        self.calls += [(call.function.name, dict(call.function.arguments))
                       for call in answer.message.tool_calls or ()]
        return answer.message.content or ""

    def failure(self, error: BaseException) -> Failure:
        import ollama

        if not isinstance(error, ollama.ResponseError):
            raise error
        return Failure(error.status_code, error.error)


class OllamaGenerate(Ollama):
    """The package `ollama`, with generate."""

    can_use_tools = False

    def _options(self, tool: bool = False, image: bool = False) -> Dict[str, Any]:
        return {"prompt": PROMPT, "images": [IMAGE] if image else None}

    def whole(self, model: str, **more: Any) -> str:
        return str(self.client.generate(model, **self._options(**more)).response)

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        yield from _closing(self.client.generate(model, stream=True, **self._options(**more)),
                            lambda part: part.response)


class OpenAI(RealClient):
    """The package `openai`, with chat completions."""

    package = "openai"

    def start(self) -> None:
        import openai

        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key=self.token or "none",
                                    max_retries=0, timeout=TIMEOUT_SECONDS)

    def _options(self, tool: bool = False, image: bool = False) -> Dict[str, Any]:
        content: Any = [{"type": "text", "text": PROMPT},
                        {"type": "image_url", "image_url": {"url": IMAGE_URL}}]
        messages = [{"role": "user", "content": content if image else PROMPT}]
        return {"messages": messages, **({"tools": [WEATHER_TOOL]} if tool else {})}

    def whole(self, model: str, **more: Any) -> str:
        answer = self.client.chat.completions.create(model=model, **self._options(**more))
        return self._read(answer.choices[0].message)

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        stream = self.client.chat.completions.create(model=model, stream=True,
                                                     **self._options(**more))
        yield from _closing(stream, lambda chunk: self._read(chunk.choices[0].delta))

    def _read(self, message: Any) -> str:
        self.calls += [(call.function.name, json.loads(call.function.arguments))
                       for call in message.tool_calls or ()]
        return message.content or ""

    def failure(self, error: BaseException) -> Failure:
        import openai

        if not isinstance(error, openai.APIError):
            raise error
        return Failure(getattr(error, "status_code", None), error.message)


class OpenAICompletions(OpenAI):
    """The package `openai`, with the old completions."""

    can_use_tools = can_see = False

    def whole(self, model: str, **more: Any) -> str:
        answer = self.client.completions.create(model=model, prompt=PROMPT)
        return str(answer.choices[0].text)

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        stream = self.client.completions.create(model=model, prompt=PROMPT, stream=True)
        yield from _closing(stream, lambda chunk: chunk.choices[0].text)


class OpenAIResponses(OpenAI):
    """The package `openai`, with responses; its stream must have a beginning and an end."""

    def _options(self, tool: bool = False, image: bool = False) -> Dict[str, Any]:
        content: Any = [{"type": "input_text", "text": PROMPT},
                        {"type": "input_image", "image_url": IMAGE_URL, "detail": "auto"}]
        tools = [{"type": "function", **WEATHER_TOOL["function"]}]  # type: ignore[dict-item]
        return {"input": [{"role": "user", "content": content if image else PROMPT}],
                **({"tools": tools} if tool else {})}

    def whole(self, model: str, **more: Any) -> str:
        answer = self.client.responses.create(model=model, **self._options(**more))
        self._note_calls(answer)
        return str(answer.output_text)

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        import openai

        with self.client.responses.stream(model=model, **self._options(**more)) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    yield event.delta
                elif event.type == "response.failed":
                    raise openai.APIError(event.response.error.message, None, body=None)
            self._note_calls(stream.get_final_response())

    def _note_calls(self, answer: Any) -> None:
        self.calls = [(item.name, json.loads(item.arguments)) for item in answer.output
                      if item.type == "function_call"]


class Anthropic(RealClient):
    """The package `anthropic`."""

    package = "anthropic"

    def start(self) -> None:
        import anthropic

        self.client = anthropic.Anthropic(base_url=self.url, api_key=self.token or "none",
                                          max_retries=0, timeout=TIMEOUT_SECONDS)

    def _options(self, tool: bool = False, image: bool = False) -> Dict[str, Any]:
        source = {"type": "base64", "media_type": "image/png",
                  "data": base64.b64encode(IMAGE).decode()}
        content: Any = [{"type": "text", "text": PROMPT}, {"type": "image", "source": source}]
        options: Dict[str, Any] = {
            "max_tokens": 99,
            "messages": [{"role": "user", "content": content if image else PROMPT}]}
        if tool:
            options["tools"] = [{"name": "weather", "description": "The weather in a city.",
                                 "input_schema": WEATHER}]
        return options

    def whole(self, model: str, **more: Any) -> str:
        return self._read(self.client.messages.create(model=model, **self._options(**more)))

    def pieces(self, model: str, **more: Any) -> Iterator[str]:
        with self.client.messages.stream(model=model, **self._options(**more)) as stream:
            yield from stream.text_stream
            self._read(stream.get_final_message())

    def _read(self, message: Any) -> str:
        self.calls = [(block.name, block.input) for block in message.content
                      if block.type == "tool_use"]
        return "".join(block.text for block in message.content if block.type == "text")

    def failure(self, error: BaseException) -> Failure:
        import anthropic

        if not isinstance(error, anthropic.APIError):
            raise error
        return Failure(getattr(error, "status_code", None), error.message)


class LangChain(Ollama):
    """The package `langchain-ollama`, which streams even for an answer that it returns whole."""

    package = "langchain_ollama"

    def start(self) -> None:
        """Its token is the password in the URL, which becomes Basic authentication."""
        scheme, _, place = self.url.partition("://")
        self._base_url = f"{scheme}://user:{self.token}@{place}" if self.token else self.url

    def _chat(self, model: str, tool: bool = False) -> Any:
        from langchain_ollama import ChatOllama

        chat = ChatOllama(model=model, base_url=self._base_url,
                          client_kwargs={"timeout": TIMEOUT_SECONDS})
        return chat.bind_tools([WEATHER_TOOL]) if tool else chat

    @staticmethod
    def _messages(image: bool) -> List[Any]:
        content: Any = [{"type": "text", "text": PROMPT},
                        {"type": "image_url", "image_url": IMAGE_URL}]
        return [("human", content if image else PROMPT)]

    def whole(self, model: str, tool: bool = False, image: bool = False) -> str:
        return self._read(self._chat(model, tool).invoke(self._messages(image)))

    def pieces(self, model: str, tool: bool = False, image: bool = False) -> Iterator[str]:
        yield from _closing(self._chat(model, tool).stream(self._messages(image)), self._read)

    def _read(self, answer: Any) -> str:
        self.calls += [(call["name"], call["args"]) for call in answer.tool_calls]
        return str(answer.content)


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
        return {**kept, "LLM_USER_PATH": str(self.folder), "OLLAMA_HOST": self.url,
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
    requests_on_500 = 3

    def command(self, model: str, *options: str, image: bool = False, **more: Any) -> List[str]:
        assert self.folder
        entry = {"model_id": model, "model_name": model, "api_base": f"{self.url}/v1",
                 "vision": True}
        # JSON is YAML, too.
        (self.folder / "extra-openai-models.yaml").write_text(json.dumps([entry]))
        return super().command(model, "--key", self.token or "none", *options, image=image)

    def _environ(self) -> Dict[str, str]:
        # Port 9 has no Ollama, whose models would hide ours.
        return {**super()._environ(), "OLLAMA_HOST": "http://127.0.0.1:9"}


CLIENTS: Dict[str, Any] = {
    "ollama chat": Ollama, "ollama generate": OllamaGenerate, "openai chat": OpenAI,
    "openai completions": OpenAICompletions, "openai responses": OpenAIResponses,
    "anthropic": Anthropic, "langchain-ollama": LangChain, "llm-ollama": Llm,
    "llm openai": LlmOpenAI,
}


def need(package: str) -> None:
    """Skip or fail the test if the package is not installed."""
    is_missing = importlib.util.find_spec(package) is None
    if is_missing and sys.version_info < (3, 10):
        pytest.skip(f"{package} has no current version for this Python")
    require_service(f"{package} is not installed: pip install -r tests/clients.txt"
                    if is_missing else None)


def _closing(stream: Any, read: Any) -> Iterator[str]:
    """Read the items of a stream, which is closed even if not all of them are asked for."""
    try:
        for item in stream:
            yield read(item)
    finally:
        stream.close()
