"""The local provider's parts by themselves: environment, headers, passwords, secrets, logs, deployments."""

import asyncio
import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucky.errors import SettingsError
from bucky.settings import PREFIX, Settings
from local_provider import logs
from local_provider.auth import BasicAuth
from local_provider.deployments import Deployed, Deployment, DeploymentStore, InvalidRequest, split_name
from local_provider.logs import FunctionLog
from local_provider.process import inherited_environment
from local_provider.proxy import end_to_end
from local_provider.secrets import Secret, SecretStore


def test_no_secret_of_the_provider_reaches_a_function() -> None:
    """Whatever secrets Settings will have, functions inherit none of them, nor anything of the machine's."""
    environ = {PREFIX + field.upper(): "x" for field in Settings.model_fields}
    inherited = inherited_environment({**environ, "PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "LD_PRELOAD": "x"})
    secret = {PREFIX + field.upper() for field in Settings.secret_fields()}
    assert inherited["PATH"] == "/bin"
    assert PREFIX + "STORE_ENDPOINT" in inherited
    # Where functions are called is no secret: process-instances calls them.
    assert {name for name in inherited if "GATEWAY" in name} == {PREFIX + "GATEWAY_URL"}
    assert not secret & set(inherited)
    assert {"AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "BUCKY_NATS_URL", "BUCKY_SECRETS_DIR"}.isdisjoint(inherited)


def test_headers_for_one_hop_stay_behind() -> None:
    """RFC 9110 7.6.1: the connection's own headers, and those it names, are not passed on."""
    headers = [(b"Connection", b"close, x-hop"), (b"X-Hop", b"1"), (b"TE", b"trailers"), (b"X-Stays", b"1")]
    assert end_to_end(headers) == [(b"X-Stays", b"1")]


@given(st.text(max_size=40))
def test_only_the_password_opens(header: str) -> None:
    """No other Authorization header passes, however odd."""

    async def app(*_: object) -> None:
        raise AssertionError("passed without the password")

    async def attempt() -> list[int]:
        sent: list[int] = []

        async def send(message: object) -> None:
            assert isinstance(message, dict)
            if message["type"] == "http.response.start":
                sent.append(message["status"])

        async def receive() -> dict[str, object]:
            return {"type": "http.request"}

        value = header.encode("utf-8", "replace")
        scope = {"type": "http", "method": "GET", "headers": [(b"authorization", b"Basic " + value)]}
        await BasicAuth(app, "admin", "right")(scope, receive, send)
        return sent

    assert asyncio.run(attempt()) == [401]


def test_secrets_may_be_binary_and_must_not_be_empty() -> None:
    """faas-cli sends files as base64; nothing is not a secret."""
    raw = base64.b64encode(b"\x00\xff").decode()
    assert Secret.parse(f'{{"name": "a", "rawValue": "{raw}"}}'.encode()).content() == b"\x00\xff"
    for body in (b'{"name": "a"}', b'{"name": "a", "rawValue": "%"}'):
        with pytest.raises(InvalidRequest):
            Secret.parse(body).content()
    with pytest.raises(InvalidRequest, match="name"):
        Secret.parse(b'{"name": "../a", "value": "x"}')


def test_a_mounted_folder_holds_exactly_what_is_declared(tmp_path: Path) -> None:
    """A secret that a function no longer declares is taken from it."""
    store = SecretStore(tmp_path / "secrets", tmp_path / "mounts")
    for name in ("a", "b"):
        store.put(name, name.encode())
    assert {file.name for file in store.mount("f", ["a", "b"]).iterdir()} == {"a", "b"}
    folder = store.mount("f", ["b"])
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"b": "b"}
    assert (folder.stat().st_mode & 0o777, (folder / "b").stat().st_mode & 0o777) == (0o700, 0o600)


def test_deployments_survive_as_they_were(tmp_path: Path) -> None:
    """What was deployed is read back the same, and a damaged file is named."""
    deployment = Deployment.parse(b'{"service": "f", "envProcess": "cat", "labels": null, "later": 1}')
    deployed = Deployed(deployment=deployment, replicas=3, created_at=datetime.now(UTC))
    DeploymentStore(tmp_path / "functions").save(deployed)
    store = DeploymentStore(tmp_path / "functions")
    assert list(store.load()) == [deployed]
    (tmp_path / "functions" / "f.json").write_text("{")
    with pytest.raises(SettingsError, match=r"f\.json is not a deployment"):
        list(store.load())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "A", "a_b", "a.elsewhere", "-a", "a" * 64, "a\n", "a\0"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    """Names become file names and paths, so only DNS labels pass."""
    with pytest.raises(InvalidRequest):
        split_name(name)


def test_logs_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a function prints, memory and disk hold only the last of it."""
    monkeypatch.setattr(logs, "LARGEST_FILE", 10_000)
    log = FunctionLog("f", tmp_path)
    for number in range(3000):
        log.append("f-1", str(number))
    log.close()
    assert [line.text for line in log.recent()] == [str(number) for number in range(1000, 3000)]
    assert [line.text for line in log.recent(tail=2)] == ["2998", "2999"]
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["f.log", "f.log.1"]
    assert all(file.stat().st_size < 11_000 for file in files)


async def test_a_slow_follower_loses_lines_not_our_memory(tmp_path: Path) -> None:
    """Who follows a log without reading it costs a bounded queue, and is sent home when the log is closed."""
    log = FunctionLog("f", tmp_path)
    follower = log.follow(10)
    first = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    log.append("f-1", "first")
    assert (await first).text == "first"
    for number in range(5000):
        log.append("f-1", str(number))
    log.close()
    rest = [line.text async for line in follower]
    assert len(rest) < logs.WAITING_LINES
    assert rest[-1] == "4999"
