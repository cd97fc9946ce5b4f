"""`bucky doctor`: checks every dependency and says what is wrong and what to do about it."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import httpx
import typer

from bucky.cli.api_client import Access, ApiClient
from bucky.cli.output import print_rows
from bucky.errors import BuckyError
from bucky.runtime.ports import is_free
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from local_stack.commands import DEFAULT_HOME, AsJson, HomeOption, running
from local_stack.layout import Home, Ports
from local_stack.own_store import GATEWAY
from local_stack.process import ProcessFailed
from local_stack.servers import built, installed
from local_stack.stack import build

SLOW_FSYNC_SECONDS = 0.02
LEAST_FREE_BYTES = 5 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, whether it is well, what was seen and what to do."""

    name: str
    state: Literal["good", "note", "bad"]
    seen: str
    remedy: str = ""


def doctor(
    home: HomeOption = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Check everything Bucky depends on; exit 1 when something is wrong."""
    place = Home(home)
    findings = list(examine(place))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        rows = [{"part": finding.name, **asdict(finding)} for finding in findings]
        print_rows(rows, {"state": "", "part": "Part", "seen": "Seen", "remedy": "What to do"}, "")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def examine(home: Home) -> Iterator[Finding]:
    """Look at the machine, then at the stack: its ports when it is stopped, its parts when it runs."""
    yield _python()
    for tool, argument in (("nats-server", "--version"), ("weed", "version"), ("traefik", "version")):
        yield _tool(tool, argument)
    yield _gateway()
    yield from _disk(home.path)
    yield _settings()
    if running(home):
        yield from _running_stack(home)
    else:
        yield Finding("stack", "note", f"not running in {home.path}", "`bucky up` starts it")
        yield from _ports()


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    # As tools/find-python chooses it: distributions optimise theirs without saying so.
    if "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")) or sys.base_prefix == "/usr":
        return Finding("python", "good", version)
    return Finding(
        "python",
        "note",
        f"{version}, built without optimisations: everything takes half as long again",
        "install your distribution's Python, remove .venv, and run `make setup`",
    )


def _tool(tool: str, argument: str) -> Finding:
    try:
        return Finding(tool, "good", _version(installed(tool), argument))
    except (ProcessFailed, OSError, subprocess.SubprocessError) as error:
        return Finding(tool, "bad", f"does not run: {error}", "run `make setup`")


def _gateway() -> Finding:
    remedy = f"install Go 1.24 or newer, then run `tools/build {GATEWAY}`"
    executable = built(GATEWAY)
    if executable is None:
        return Finding(GATEWAY, "note", "not built: new homes get SeaweedFS, which costs four times as much", remedy)
    try:
        return Finding(GATEWAY, "good", _version(executable, "--version"))
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(GATEWAY, "bad", f"does not run: {error}", remedy)


def _version(executable: str, argument: str) -> str:
    shown = subprocess.run((executable, argument), capture_output=True, text=True, timeout=20, check=True)
    return " ".join(" ".join(shown.stdout.strip().splitlines()[:1]).split())


def _disk(path: Path) -> Iterator[Finding]:
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    seen = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < LEAST_FREE_BYTES:
        yield Finding("disk space", "bad", seen, "free some space: the edge refuses instances when the disk is full")
    else:
        yield Finding("disk space", "good", seen)
    seconds = _fsync_seconds(folder)
    seen = f"{seconds * 1000:.1f} ms"
    if seconds > SLOW_FSYNC_SECONDS:
        yield Finding("fsync", "note", seen, "each acknowledgement waits this long; an SSD is faster")
    else:
        yield Finding("fsync", "good", seen)


def _fsync_seconds(folder: Path) -> float:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            began = time.monotonic()
            os.fsync(file.fileno())
            return time.monotonic() - began
    except OSError as error:
        raise ProcessFailed(f"{folder} cannot be written to: {error.strerror}; choose another with --home") from error


def _settings() -> Finding:
    try:
        Settings.load(os.environ)
    except BuckyError as error:
        return Finding("settings", "bad", str(error), "correct or unset the variable")
    return Finding("settings", "good", "valid")


def _ports() -> Iterator[Finding]:
    taken = [f"{port} ({name})" for name, port in asdict(Ports()).items() if not is_free(port)]
    if taken:
        yield Finding("ports", "bad", f"in use: {', '.join(taken)}", "stop what uses them, or `bucky up --free-ports`")
    else:
        yield Finding("ports", "good", f"all {len(fields(Ports))} are free")


def _running_stack(home: Home) -> Iterator[Finding]:
    record = home.read_record() or {}
    stack = build(home, Ports(**record["ports"]), os.environ, demo="demo-destination" in record["processes"])
    for program in (*stack.servers, *stack.services):
        if program.ready():
            yield Finding(program.name, "good", program.address)
        else:
            log = home.logs / f"{program.name}.log"
            yield Finding(program.name, "bad", "does not answer", f"read {log}; it is restarted by itself")
    yield _attempt("bucket", S3ObjectStore(stack.settings).check, f"{stack.settings.store_bucket} is there")
    yield _attempt("https", lambda: _https(stack.settings.public_url, home), "certificate and health are good")
    yield from _attention(stack.settings.public_url, stack.settings.api_key.get_secret_value(), home)


def _attention(url: str, key: str, home: Home) -> Iterator[Finding]:
    """Say what needs attention, as `bucky status` does."""
    try:
        with ApiClient(Access(url, key, home.tls / "ca.pem")) as api:
            items = api.get("/api/attention")
    except BuckyError as error:
        yield Finding("attention", "bad", str(error), "`bucky status` shows more")
        return
    if not items:
        yield Finding("attention", "good", "nothing needs any")
    for item in items:
        seen = f"{item['cause']} ({item['count']}, since {item['since']}): {item['effect']}"
        yield Finding(item["subject"] or item["kind"], "bad", seen, item["command"])


def _attempt(name: str, look: Callable[[], None], seen: str) -> Finding:
    try:
        look()
    except (BuckyError, httpx.HTTPError) as error:
        return Finding(name, "bad", str(error), "`bucky status` shows more")
    return Finding(name, "good", seen)


def _https(url: str, home: Home) -> None:
    context = ssl.create_default_context(cafile=str(home.tls / "ca.pem"))
    httpx.get(f"{url}/health", verify=context, timeout=5, trust_env=False).raise_for_status()
