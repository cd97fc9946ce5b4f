"""The admin API answers what its OpenAPI description says, whatever it is asked."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from local_stack.process import Program
from tests.support.network.plain_http import get
from tests.support.servers import make_nats, run
from tests.support.services.admin_world import KEY
from tests.support.services.cli_world import admin_api, fill, kill_letters

EXAMPLES = 8
LIMITS = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
HEADERS = {"X-Api-Key": KEY}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
# There is neither an object store nor a connector here, and these say so.
SAY_WHAT_IS_AWAY = {"/api/health", "/api/queues", "/api/instances/{sha256}/file", "/api/rules/explain"}


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Program]:
    """The admin API as a process, with an index that holds something, and a broker."""
    broker, broker_settings = make_nats(tmp_path)
    index_url = f"sqlite:///{tmp_path / 'index.db'}"
    fill(index_url)
    asyncio.run(kill_letters(broker_settings))
    running = run(admin_api(broker_settings, index_url), tmp_path)
    yield running.program
    running.stop()
    broker.stop()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_every_operation_answers_as_described(admin: Program, mode: GenerationMode) -> None:
    """Valid or not, no request may end in a fault of ours, nor in an answer that nobody was told of."""
    description = get(f"{admin.address}/api/openapi.json", headers=HEADERS).json()
    tried = 0
    for result in schemathesis.openapi.from_dict(description).get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()

        @LIMITS
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case: schemathesis.Case[Any]) -> None:
            response = case.call(base_url=admin.address, headers=HEADERS, timeout=60)
            away = response.status_code == httpx.codes.SERVICE_UNAVAILABLE and case.operation.path in SAY_WHAT_IS_AWAY
            assert response.status_code < 500 or away, response.text
            case.validate_response(response, checks=CHECKS)

        answers()
        tried += 1
    assert tried > 30
