"""The demo's sample rule: every instance that calls from loopback goes to the demo destination."""

from typing import Any

import httpx

from bucky.routing import DimseDestination, Routing, Rule

DESTINATION = "demo"
RULE = "everything-to-demo"


def ensure_demo_routing(api: httpx.Client, port: int) -> None:
    """Add the demo destination and its rule through the API, as an administrator would; keep all others."""
    current = api.get("/api/routing")
    current.raise_for_status()
    document = Routing.model_validate(current.json()["document"])
    wanted = with_demo(document, port)
    if wanted != document:
        answer = api.put("/api/routing", json=as_data(wanted), headers={"If-Match": current.headers["ETag"]})
        answer.raise_for_status()


def with_demo(document: Routing, port: int) -> Routing:
    """Return the document with the demo's destination and rule in place of any of the same names."""
    destination = DimseDestination(
        name=DESTINATION, type="dimse", aet="DEMO", host="127.0.0.1", port=port, max_associations=4
    )
    rule = Rule.model_validate(
        {
            "name": RULE,
            "when": {"association": "source_address", "equals": "127.0.0.1"},
            "destinations": [DESTINATION],
        }
    )
    return Routing(
        destinations=(*(one for one in document.destinations if one.name != DESTINATION), destination),
        rules=(*(one for one in document.rules if one.name != RULE), rule),
    )


def as_data(document: Routing) -> dict[str, Any]:
    """Return the document as the API takes it."""
    data: dict[str, Any] = document.model_dump(mode="json", by_alias=True, exclude_none=True)
    return data
