"""`bucky up`'s way to deploy: the stack file through our own client, to a real provider."""

import os
import signal
from pathlib import Path

import pytest
from pydantic import SecretStr

from bucky.errors import Permanent, Retriable, SettingsError
from bucky.index import Index
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from local_provider.client import deploy
from local_stack.servers import REPOSITORY
from tests.support.network.plain_http import get
from tests.support.provider.provider_process import PASSWORD, USER, running_provider
from tests.support.waiting import eventually

STACK = REPOSITORY / "openfaas" / "stack.yaml"
NAMES = (
    "parse-instance",
    "route-instance",
    "route-stable",
    "forward-instances",
    "process-instances",
    "commit-deliveries",
    "record-dead-letter",
)


def at(url: str, settings: Settings, **changes: SecretStr) -> Settings:
    """Return the settings for a provider at the URL."""
    gateway = {"gateway_url": url, "gateway_user": USER, "gateway_password": SecretStr(PASSWORD)}
    return settings.model_copy(update={**gateway, **changes})


def test_the_real_functions_run(tmp_path: Path, store_settings: Settings, index_url: str) -> None:
    """Bucky's own functions become ready under the provider, answer, and heal when killed."""
    with running_provider(
        tmp_path,
        BUCKY_STORE_ENDPOINT=store_settings.store_endpoint,
        BUCKY_STORE_BUCKET=store_settings.store_bucket,
    ) as provider:
        settings = at(provider.url, store_settings, index_url=SecretStr(index_url))
        index = Index.open(index_url)
        index.migrate()
        index.close()
        assert deploy(STACK, settings) == NAMES
        for name in NAMES:
            provider.wait_available(name, 1)
        assert deploy(STACK, settings) == NAMES
        assert [provider.status(name)["availableReplicas"] for name in NAMES] == [1] * len(NAMES)
        answer = provider.anyone.post(
            "/function/parse-instance",
            content=b"{not json",
            headers={"Content-Type": "application/cloudevents-batch+json"},
        )
        assert answer.status_code == 400
        (pid,) = provider.pids_of("parse-instance")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: provider.pids_of("parse-instance") not in ([], [pid]))
        provider.wait_available("parse-instance", 1)


def test_deploying_says_what_is_wrong() -> None:
    """No provider, no secret: each is a sentence of its own, and the first can be tried again."""
    nowhere = at(f"http://127.0.0.1:{free_port()}", Settings.load({}), index_url=SecretStr("sqlite://"))
    with pytest.raises(SettingsError, match="store-access-key, which has no value"):
        deploy(STACK, nowhere)
    keys = {"store_access_key": SecretStr("a"), "store_secret_key": SecretStr("s")}
    with pytest.raises(Retriable, match="does not answer"):
        deploy(STACK, nowhere.model_copy(update=keys))


def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    """The gateway's refusal is not mistaken for a missing function."""
    with running_provider(tmp_path) as provider:
        settings = at(provider.url, Settings.load({}), gateway_password=SecretStr("wrong"))
        keys = {name: SecretStr("x") for name in ("store_access_key", "store_secret_key", "index_url")}
        with pytest.raises(Permanent, match="does not accept"):
            deploy(STACK, settings.model_copy(update=keys))
        assert provider.api.get("/system/functions").json() == []
        assert get(provider.url + "/metrics").status_code == 200
