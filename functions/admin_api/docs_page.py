"""The API's documentation as one page that loads nothing from anywhere."""

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
section{border-top:1px solid #8888;padding:.5rem 0}
code{font:14px ui-monospace,monospace}
h3{margin:.5rem 0}
td{padding:.1rem 1rem .1rem 0;vertical-align:top}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"

routes = APIRouter(include_in_schema=False)


@routes.get("/api/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI description."""
    return JSONResponse(request.app.openapi())


@routes.get("/api/docs")
async def docs(request: Request) -> HTMLResponse:
    """Return the documentation for people."""
    return HTMLResponse(page(request.app.openapi()), headers={"Content-Security-Policy": POLICY})


def page(description: Mapping[str, Any]) -> str:
    """Render an OpenAPI description as HTML."""
    info = description["info"]
    sections = "".join(
        _operation(method, path, operation)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f"<style>{STYLE}</style><h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>"
        f'<p><a href="/api/openapi.json">openapi.json</a></p>{sections}</html>'
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(parameter['in'])}"
        f"{' (required)' if parameter.get('required') else ''}<td>{escape(parameter.get('description', ''))}"
        for parameter in operation.get("parameters", ())
    )
    answers = ", ".join(escape(status) for status in operation["responses"])
    return (
        f"<section><h3><code>{escape(method.upper())} {escape(path)}</code></h3>"
        f"<p>{escape(operation.get('description', ''))}</p><table>{rows}</table><p>Answers: {answers}</section>"
    )
