"""Reads CloudEvents from an HTTP request: batch, structured or binary mode (CloudEvents HTTP binding 1.0)."""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError

from bucky.cloudevents import BATCH_MEDIA_TYPE, MEDIA_TYPE, CloudEvent

_BATCH = TypeAdapter(list[CloudEvent])


class MalformedRequest(ValueError):
    """The request is not a CloudEvent; its message says why and repeats nothing that was sent."""


def read_events(headers: Mapping[str, str], body: bytes) -> list[CloudEvent]:
    """Return the request's events; raise `MalformedRequest`."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type == BATCH_MEDIA_TYPE:
            return _BATCH.validate_json(body)
        if media_type == MEDIA_TYPE:
            return [CloudEvent.model_validate_json(body)]
        if "ce-specversion" in headers:
            return [_binary(headers, media_type, body)]
    except ValidationError as error:
        raise MalformedRequest(f"the body is not a CloudEvent: {_first(error)}") from None
    raise MalformedRequest(
        f"content type {media_type[:80]!r} is not understood; send {BATCH_MEDIA_TYPE}, {MEDIA_TYPE}, or ce-* headers"
    )


def _binary(headers: Mapping[str, str], media_type: str, body: bytes) -> CloudEvent:
    """Attributes are `ce-*` headers, percent-encoded; the body is the data (HTTP binding §3.1)."""
    attributes: dict[str, Any] = {
        name[3:].lower(): unquote(value) for name, value in headers.items() if name.lower().startswith("ce-")
    }
    if media_type:
        attributes["datacontenttype"] = media_type
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            attributes["data"] = json.loads(body) if body else None
        except ValueError:
            raise MalformedRequest("the body is not the JSON that its content type promises") from None
    elif body:
        attributes["data_base64"] = base64.b64encode(body).decode()
    return CloudEvent.model_validate(attributes)


def _first(error: ValidationError) -> str:
    detail = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in detail["loc"]) or "body"
    return f"{place}: {detail['msg']}"[:200]
