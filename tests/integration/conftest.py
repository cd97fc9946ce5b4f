"""Fixtures that several integration tests share."""

from collections.abc import AsyncIterator

import pytest

from bucky.settings import Settings
from tests.support.connector.connector_world import ConnectorWorld, stage


@pytest.fixture
async def on_stage(nats_settings: Settings) -> AsyncIterator[ConnectorWorld]:
    """A running connector, in this process."""
    async with stage(nats_settings) as made:
        yield made
