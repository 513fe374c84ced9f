"""The web page, for browsers; all else that asks for / is looking for an Ollama. What the page
shows comes from the API, which this module does not know."""
from __future__ import annotations

from pathlib import Path

from flask import Response, request

from manage.auth.tokens import NO_TOKEN
from manage.context import Context

from .registry import Routes

FOLDER = Path(__file__).resolve().parent.parent / "page"
HTML = "index.html"
CONTENT_TYPES = {
    HTML: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
FILES = {name: (FOLDER / name).read_bytes() for name in CONTENT_TYPES}
# Scripts and styles come from this server alone, and never from what is shown.
POLICY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
    "img-src 'self' data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
])

routes = Routes()


@routes.get("/", needs=NO_TOKEN)
def root(context: Context) -> Response:
    # Other clients send */* or nothing.
    if not any(name.lower() == "text/html" and quality > 0
               for name, quality in request.accept_mimetypes):
        return Response("Ollama is running", content_type="text/plain; charset=utf-8")
    answer = _file(HTML)
    answer.headers["Content-Security-Policy"] = POLICY
    return answer


@routes.get("/page/page.css", needs=NO_TOKEN)
def page_css(context: Context) -> Response:
    return _file("page.css")


@routes.get("/page/page.js", needs=NO_TOKEN)
def page_js(context: Context) -> Response:
    return _file("page.js")


def _file(name: str) -> Response:
    return Response(FILES[name], content_type=CONTENT_TYPES[name])
