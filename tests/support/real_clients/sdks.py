"""The SDKs of OpenAI and Anthropic, unmodified; importing this module imports none of them."""
from __future__ import annotations

import base64
import json
from typing import Any, Dict, Iterator

from tests.support.processes import TIMEOUT_SECONDS
from tests.support.real_clients.base import (
    IMAGE,
    IMAGE_URL,
    PROMPT,
    WEATHER,
    WEATHER_TOOL,
    Failure,
    RealClient,
    closing,
)


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
        yield from closing(stream, lambda chunk: self._read(chunk.choices[0].delta))

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
        yield from closing(stream, lambda chunk: chunk.choices[0].text)


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
