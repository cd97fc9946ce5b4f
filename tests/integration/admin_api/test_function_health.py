"""Functions as the gateway shows them: what keeps dying is in the health of the parts, and needs attention."""

import os
import signal
from pathlib import Path

import httpx

from admin_api.attention import Known, needing_attention
from admin_api.health import HealthBoard, functions_check
from bucky.cloudevents import utc_now
from bucky.settings import Settings
from tests.support.provider.provider_process import PASSWORD, USER, Provider, running_provider
from tests.support.waiting import eventually


async def found(provider: Provider) -> tuple[dict[str, int], list[str]]:
    """Return what the health says of the function, and what needs attention because of it."""
    environ = {
        "BUCKY_GATEWAY_URL": provider.url,
        "BUCKY_GATEWAY_USER": USER,
        "BUCKY_GATEWAY_PASSWORD": PASSWORD,
    }
    async with httpx.AsyncClient(trust_env=False) as http:
        report = await HealthBoard({"functions": functions_check(http, Settings.load(environ))}).report()
    items = needing_attention(Known(now=utc_now(), parts=report.parts))
    assert {(item.kind, item.subject, item.command) for item in items} <= {
        ("function_down", "echo", "faas-cli logs echo")
    }
    return report.parts["functions"].detail["functions"]["echo"], [item.cause for item in items]


def die(provider: Provider) -> None:
    """Kill the replica, and wait until it is counted and another one is ready."""
    restarts = provider.status()["recentRestarts"]
    os.kill(provider.call()["pid"], signal.SIGKILL)
    eventually(lambda: provider.status()["recentRestarts"] == restarts + 1)
    provider.wait_available("echo", 1)


async def test_a_function_that_keeps_dying_needs_attention(tmp_path: Path) -> None:
    """It is ready whenever somebody looks: only the count says that it dies of what it is given."""
    with running_provider(tmp_path) as provider:
        provider.deploy()
        assert await found(provider) == ({"replicas": 1, "available": 1, "restarts": 0}, [])
        die(provider)
        assert await found(provider) == ({"replicas": 1, "available": 1, "restarts": 1}, [])
        for _ in range(2):
            die(provider)
        health, causes = await found(provider)
        assert health == {"replicas": 1, "available": 1, "restarts": 3}
        assert causes == ["the function echo ended by itself 3 times in ten minutes; 1 of 1 replicas are ready"]


async def test_a_function_that_cannot_stay_needs_attention_at_once(tmp_path: Path) -> None:
    """One that ends as soon as it has begun is never ready, and the list says that it ends by itself."""
    with running_provider(tmp_path) as provider:
        request = {**provider.deployment(), "envProcess": "false"}
        assert provider.api.post("/system/functions", json=request).status_code == 202
        eventually(lambda: provider.status()["recentRestarts"] > 0)
        health, causes = await found(provider)
        assert (health["replicas"], health["available"]) == (1, 0)
        assert health["restarts"] > 0
        (cause,) = causes
        assert "ended by itself" in cause
        assert "0 of 1 replicas are ready" in cause
