"""Starts the stack's programs in order, restarts what ends, and stops everything cleanly."""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bucky.cli.stack_settings import noted_settings
from local_stack.belongings import Belongings, index_of
from local_stack.layout import CannotStart, Home
from local_stack.process import ProcessFailed, Program, kill_session, start, stop, wait_ready
from local_stack.provision import deploy_functions, provision
from local_stack.stack import Stack

RESTART_FIRST_SECONDS = 0.2
RESTART_MOST_SECONDS = 10.0
STEADY_SECONDS = 30.0
POLL_SECONDS = 0.1
STUCK_SECONDS = 2.0
NOTE_SECONDS = 60.0

Report = Callable[[str, str, str], None]  # program, state, detail


class _Supervised:
    """A program that is meant to run, and its restarts."""

    def __init__(self, program: Program, process: "subprocess.Popen[bytes]") -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = process
        self.started_at = time.monotonic()
        self.restart_at = 0.0
        self.pause = RESTART_FIRST_SECONDS
        self.asked_at = self.started_at


class Supervisor:
    """Runs one stack; a context manager that leaves nothing running behind it.

    Raises `CannotStart` when another stack runs in the same home, `ProcessFailed` when a program does
    not become ready.
    """

    def __init__(
        self, stack: Stack, report: Report, ended: Callable[[], bool], *, accept_changes: bool = False
    ) -> None:
        self._stack = stack
        self._report = report
        self._ended = ended
        self._supervised: list[_Supervised] = []
        self._lock: IO[str] | None = None
        self._ready = False
        self._accept_changes = accept_changes
        self._has: Belongings | None = None

    def __enter__(self) -> Self:
        home = self._stack.home
        self._lock = home.lock.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(f"Bucky already runs in {home.path}; stop it with `make down`") from None
        end_leftovers(home)
        self._stack.ports.check_free()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._note()
        for supervised in reversed(self._supervised):
            if supervised.process is not None:
                stop(supervised.process, supervised.program.stop_seconds)
                self._report(supervised.program.name, "stopped", "")
        self._stack.home.record.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def start(self) -> None:
        """Start the servers, provision them, then start Bucky's own services and functions."""
        for program in self._stack.servers:
            self._start(program)
        self._has = provision(self._stack, accept_changes=self._accept_changes)
        self._note()
        self._report("provisioning", "ready", "bucket, streams, index")
        for program in self._stack.services:
            self._start(program)
        names = deploy_functions(self._stack)
        self._report("functions", "ready", ", ".join(names))
        self._ready = True
        self._write_record()

    def watch(self) -> None:
        """Restart programs that end, with growing pauses, until asked to end."""
        noted_at = time.monotonic()
        while not self._ended():
            if time.monotonic() - noted_at > NOTE_SECONDS:
                self._note()
                noted_at = time.monotonic()
            for supervised in self._supervised:
                self._watch_one(supervised)
            time.sleep(POLL_SECONDS)

    def _note(self) -> None:
        """Note what the home has, for its next start; nothing while it is not known, or does not answer."""
        if self._has is None:
            return
        has = index_of(self._stack.settings.index_url.get_secret_value(), self._has.streams)
        if has is not None:
            has.write(self._stack.home.belongings)

    def _start(self, program: Program) -> None:
        process = start(program, self._log_file(program))
        self._supervised.append(_Supervised(program, process))
        self._write_record()
        seconds = wait_ready(program, process, self._log_file(program), self._ended)
        self._report(program.name, "ready", f"{program.address}  ({seconds:.1f} s)")

    def _watch_one(self, supervised: _Supervised) -> None:
        now = time.monotonic()
        if supervised.process is None:
            if now >= supervised.restart_at:
                supervised.process = start(supervised.program, self._log_file(supervised.program))
                supervised.started_at = now
                self._write_record()
                self._report(supervised.program.name, "restarted", f"process {supervised.process.pid}")
            return
        code = supervised.process.poll()
        if code is None:
            self._end_if_stuck(supervised, now)
            return
        kill_session(supervised.process.pid)
        steady = now - supervised.started_at > STEADY_SECONDS
        supervised.pause = RESTART_FIRST_SECONDS if steady else min(supervised.pause * 2, RESTART_MOST_SECONDS)
        supervised.restart_at = now + supervised.pause
        supervised.process = None
        self._report(supervised.program.name, "ended", f"code {code}; starting it again in {supervised.pause:.1f} s")

    def _end_if_stuck(self, supervised: _Supervised, now: float) -> None:
        """End a program that runs and does nothing any more; it is then started again as any that ended."""
        program, process = supervised.program, supervised.process
        if program.stuck is None or process is None or now - supervised.asked_at < STUCK_SECONDS:
            return
        supervised.asked_at = now
        if program.stuck():
            self._report(program.name, "stuck", "it refuses writes, and its disk has room: starting it again")
            stop(process, program.stop_seconds)

    def _log_file(self, program: Program) -> Path:
        return self._stack.home.logs / f"{program.name}.log"

    def _write_record(self) -> None:
        self._stack.home.write_record(
            {
                "supervisor": os.getpid(),
                "ready": self._ready,
                "ports": asdict(self._stack.ports),
                "public_url": self._stack.settings.public_url,
                **noted_settings(self._stack.settings),
                "processes": {
                    entry.program.name: {"pid": entry.process.pid, "started": start_time(entry.process.pid)}
                    for entry in self._supervised
                    if entry.process is not None
                },
            }
        )


def end_leftovers(home: Home) -> None:
    """End programs that an earlier supervisor of this home left running when it was killed."""
    noted = (home.read_record() or {}).get("processes", {}).values()
    for entry in noted:
        if start_time(entry["pid"]) == entry["started"]:
            kill_session(entry["pid"])
    deadline = time.monotonic() + 5
    while any(start_time(entry["pid"]) == entry["started"] for entry in noted):
        if time.monotonic() > deadline:
            raise ProcessFailed("programs of an earlier run do not end; run `make down`, or end them yourself")
        time.sleep(POLL_SECONDS)


def start_time(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - not a file of ours
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
