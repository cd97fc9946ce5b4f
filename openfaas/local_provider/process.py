"""One function process: its command, its environment, its output, its end."""

import asyncio
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bucky.runtime.connection_pool import ConnectionPool
from bucky.runtime.ports import free_port
from bucky.settings import PREFIX, Settings
from local_provider.deployments import Deployment, InvalidRequest
from local_provider.forked import Forked, can_fork
from local_provider.logs import FunctionLog

HOST = "127.0.0.1"
DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
# A little more than `bucky.serve` allows itself.
DRAIN_SECONDS = 30.0
LAST_OUTPUT_SECONDS = 1.0
# Shorter than uvicorn's 5 s, so that a connection is not reused while the function closes it.
IDLE_SECONDS = 4.0
READ_BYTES = 65536
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")
# A function holds only the secrets it declares, and knows nothing of the broker, nor of this provider but where
# functions are called.
NOT_FOR_FUNCTIONS = ("GATEWAY_USER", "PROVIDER_", "NATS_", "SECRETS_DIR", "HANDLER", "SERVE_")

FunctionProcess = asyncio.subprocess.Process | Forked


@dataclass(frozen=True)
class Command:
    """How to start a replica of one deployment."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ready_path: str
    forked: bool = False


def inherited_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the provider's own environment that functions get: no secrets, no broker."""
    kept = {name: environ[name] for name in INHERITED if name in environ}
    withheld = {PREFIX + field.upper() for field in Settings.secret_fields()}
    refused = tuple(PREFIX + stem for stem in NOT_FOR_FUNCTIONS)
    for name, value in environ.items():
        if name.startswith(PREFIX) and name not in withheld and not name.startswith(refused):
            kept[name] = value
    return kept


def parse_command(deployment: Deployment) -> tuple[str, ...]:
    """Return the deployment's command; raise `InvalidRequest` when there is none to run."""
    try:
        argv = shlex.split(deployment.env_process)
    except ValueError as error:
        raise InvalidRequest(f"envProcess: {error}") from None
    if not argv:
        raise InvalidRequest(
            f"{deployment.service} has no envProcess: this provider runs commands, not images, so the "
            "function's template must name its fprocess (is ./template there?)"
        )
    if argv[0] in ("python", "python3"):
        argv[0] = sys.executable
    return tuple(argv)


def command(deployment: Deployment, base: Mapping[str, str], secrets_dir: Path) -> Command:
    """Return how to start a replica; the deployment's variables win over the inherited ones."""
    environment = {
        **base,
        "PYTHONUNBUFFERED": "1",
        **deployment.env_vars,
        f"{PREFIX}SECRETS_DIR": str(secrets_dir),
        f"{PREFIX}SERVE_HOST": HOST,
    }
    argv = parse_command(deployment)
    return Command(deployment.service, argv, environment, deployment.ready_path, can_fork(argv, deployment.env_vars))


class Replica:
    """A running function process."""

    def __init__(self, process: FunctionProcess, instance: str, port: int, log: FunctionLog) -> None:
        self._process = process
        self._log = log
        self._reader = asyncio.create_task(self._read_output())
        self.instance = instance
        self.url = f"http://{HOST}:{port}"
        self.calls = ConnectionPool(HOST, port, idle_seconds=IDLE_SECONDS)
        self.ready = False

    @classmethod
    async def start(cls, command: Command, log: FunctionLog) -> Self:
        """Start the command on a free port, in a process group of its own that dies with this process.

        Should another process take the port first, the function ends, and is started again on another.
        """
        port = free_port()
        environment = {**command.environment, f"{PREFIX}SERVE_PORT": str(port)}
        process = await (Forked.start(environment) if command.forked else _executed(command.argv, environment))
        return cls(process, f"{command.name}-{secrets.token_hex(3)}", port, log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        code = await self._process.wait()
        self.ready = False
        self.calls.close()
        # What it started itself must not outlive it.
        self._signal(signal.SIGKILL)
        read, unfinished = await asyncio.wait({self._reader}, timeout=LAST_OUTPUT_SECONDS)
        for reader in read:
            reader.result()
        for reader in unfinished:  # a descendant left the group and keeps the pipe open
            reader.cancel()
        return code

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Ask it to finish its work and end; kill it when it does not."""
        self.ready = False
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), drain_seconds)
            except TimeoutError:
                self._log.append(self.instance, f"killed: it had not ended {drain_seconds:g} s after SIGTERM")
                self._signal(signal.SIGKILL)
        await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            # It has ended, or only just begun and is no group yet.
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(self._process.pid, number)

    async def _read_output(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - we asked for a pipe
        rest = b""
        while chunk := await self._process.stdout.read(READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._log.append(self.instance, line.decode(errors="replace").rstrip("\r"))
            rest = rest[-READ_BYTES:]
        if rest:
            self._log.append(self.instance, rest.decode(errors="replace"))


async def _executed(argv: tuple[str, ...], environment: Mapping[str, str]) -> FunctionProcess:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", str(DIE_WITH_PARENT), str(os.getpid())),
        *argv,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
