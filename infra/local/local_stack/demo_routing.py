"""The demo's sample rule: every instance that calls from loopback goes to the demo destination."""

from bucky.cli.api_client import ApiClient
from bucky.routing.destinations import DimseDestination
from bucky.routing.document import Routing
from bucky.routing.rules import Rule

DESTINATION = "demo"
RULE = "everything-to-demo"


def ensure_demo_routing(api: ApiClient, port: int) -> None:
    """Add the demo destination and its rule through the API, as an administrator would; keep all others."""
    current = api.get("/api/routing")
    document = Routing.model_validate(current["document"])
    wanted = with_demo(document, port)
    if wanted != document:
        api.put("/api/routing", wanted.model_dump(mode="json"), current["version"])


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
    return document.changed(
        destinations=(*(one for one in document.destinations if one.name != DESTINATION), destination),
        rules=(*(one for one in document.rules if one.name != RULE), rule),
    )
