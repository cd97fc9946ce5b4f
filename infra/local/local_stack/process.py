"""One program: how it is started, when it is ready, how it is stopped."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bucky.errors import BuckyError
from bucky.runtime.tls import trust

LOG_LIMIT_BYTES = 20 * 1024 * 1024


class ProcessFailed(BuckyError):
    """A program ended, or did not become ready; the message names its log."""


@dataclass(frozen=True)
class Program:
    """A program of the stack; `address` is what people are shown."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    ready_seconds: float = 120.0
    stop_seconds: float = 15.0
    stuck: Callable[[], bool] | None = None
    """Whether it runs and needs to be started again, asked at intervals; by default it never is."""


def http_ok(url: str, *, any_status: bool = False) -> Callable[[], bool]:
    """Return a check that passes when the URL answers 200 (or, with `any_status`, answers at all)."""

    def check() -> bool:
        try:
            status = httpx.get(url, timeout=2, trust_env=False, verify=trust(url)).status_code
        except httpx.HTTPError:
            return False
        return any_status or status == httpx.codes.OK

    return check


def tcp_open(host: str, port: int) -> Callable[[], bool]:
    """Return a check that passes when the port accepts a connection."""

    def check() -> bool:
        try:
            with socket.create_connection((host, port), timeout=1):
                return True
        except OSError:
            return False

    return check


def exits_with_0(*argv: str) -> Callable[[], bool]:
    """Return a check that passes when a command says so by its exit code."""

    def check() -> bool:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    return check


def start(program: Program, log_file: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output appended to the log file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    if log_file.exists() and log_file.stat().st_size > LOG_LIMIT_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BUCKY_")}
    with os.fdopen(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        try:
            return subprocess.Popen(
                program.argv,
                env={**inherited, **program.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ProcessFailed(
                f"{program.name} cannot be started: {program.argv[0]} is not installed; run `make setup`"
            ) from error


def wait_ready(
    program: Program,
    process: subprocess.Popen[bytes],
    log_file: Path,
    given_up: Callable[[], bool] = lambda: False,
) -> float:
    """Wait until the program is ready; return the seconds it took, or raise `ProcessFailed`."""
    began = time.monotonic()
    while time.monotonic() - began < program.ready_seconds:
        if process.poll() is not None:
            raise ProcessFailed(
                f"{program.name} ended with code {process.returncode} while starting: "
                f"{last_line(log_file)} (log: {log_file})"
            )
        if given_up():
            raise ProcessFailed(f"stopped while {program.name} was starting")
        if program.ready():
            return time.monotonic() - began
        time.sleep(0.05)
    raise ProcessFailed(
        f"{program.name} was not ready after {program.ready_seconds:.0f} s: {last_line(log_file)} (log: {log_file})"
    )


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask the program to end, and after `seconds` end it and its children."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_session(process.pid)
            process.wait()


def kill_session(pid: int) -> None:
    """Kill a program and whatever it started in its session."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def last_line(log_file: Path) -> str:
    """Return the last line of a log, or a note that there is none."""
    if not log_file.exists():
        return "no output"
    with log_file.open("rb") as log:
        log.seek(max(0, log_file.stat().st_size - 4096))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "no output"
