"""What clients ask about the models before they use one, and what they may not change."""
from __future__ import annotations

from typing import Any

from flask import Response, request

from manage.answers import json_answer
from manage.auth.tokens import USER_TOKEN
from manage.context import Context
from manage.errors import Administration
from manage.gateway import metadata
from manage.parse import json_input as values
from manage.parse.json_input import BadInput

from .registry import Route, Routes

routes = Routes()


@routes.get("/api/version", needs=USER_TOKEN)
def ollama_version(context: Context) -> Response:
    return json_answer({"version": context.inventories.version()})


@routes.get("/api/tags", needs=USER_TOKEN)
def ollama_tags(context: Context) -> Response:
    return json_answer({"models": context.inventories.tags()})


@routes.get("/api/ps", needs=USER_TOKEN)
def ollama_ps(context: Context) -> Response:
    return json_answer({"models": context.inventories.loaded()})


@routes.post("/api/show", needs=USER_TOKEN)
def ollama_show(context: Context) -> Response:
    with context.bodies.claim(request.stream) as fields:
        model = values.text(fields, "model") or values.text(fields, "name")
    if not model:
        raise BadInput("model is required")
    return json_answer(context.inventories.show(values.name("model", model)))


@routes.get("/v1/models", needs=USER_TOKEN)
def openai_models(context: Context) -> Response:
    models = [metadata.openai_model(entry) for entry in context.inventories.tags()]
    return json_answer({"object": "list", "data": models or None})


@routes.get("/v1/models/<path:model>", needs=USER_TOKEN)
def openai_model(context: Context, model: str) -> Response:
    return json_answer(metadata.openai_model(context.inventories.find(model)))


def refuse(context: Context, **path: Any) -> Response:
    raise Administration()


for _method, _path, _name in (
    ("POST", "/api/pull", "ollama_pull"),
    ("POST", "/api/push", "ollama_push"),
    ("POST", "/api/create", "ollama_create"),
    ("POST", "/api/copy", "ollama_copy"),
    ("DELETE", "/api/delete", "ollama_delete"),
    ("GET", "/api/blobs/<digest>", "ollama_find_blob"),
    ("POST", "/api/blobs/<digest>", "ollama_upload_blob"),
    ("POST", "/api/me", "ollama_account"),
    ("POST", "/api/signout", "ollama_sign_out"),
    ("DELETE", "/api/user/keys/<key>", "ollama_delete_key"),
    ("GET", "/api/experimental/<feature>", "ollama_experiment"),
    ("POST", "/api/experimental/<feature>", "ollama_run_experiment"),
):
    routes.add(Route(_method, _path, refuse, USER_TOKEN, _name))
