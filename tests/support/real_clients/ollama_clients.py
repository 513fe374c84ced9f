"""Clients of Ollama's own API, unmodified; importing this module imports none of them."""
from __future__ import annotations

from typing import Any, Dict, Iterator, List

from tests.support.processes import TIMEOUT_SECONDS
from tests.support.real_clients.base import (
    IMAGE,
    IMAGE_URL,
    MESSAGES,
    PROMPT,
    WEATHER_TOOL,
    Failure,
    RealClient,
    closing,
)


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
        yield from closing(self.client.chat(model, stream=True, **self._options(**more)),
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
        yield from closing(self.client.generate(model, stream=True, **self._options(**more)),
                            lambda part: part.response)


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
        yield from closing(self._chat(model, tool).stream(self._messages(image)), self._read)

    def _read(self, answer: Any) -> str:
        self.calls += [(call["name"], call["args"]) for call in answer.tool_calls]
        return str(answer.content)
