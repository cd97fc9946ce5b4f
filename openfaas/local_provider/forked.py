"""A function as a fork of a process that has loaded what functions need.

To load it takes a second of processor time and 110 MB, for each replica; a fork takes a tenth of the time, and shares
the memory. Linux does the rest: whatever a function changes is its own.
"""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait

from local_provider.die_with_parent import PR_SET_PDEATHSIG

SERVED = (sys.executable, "-m", "bucky.serve")
"""The command whose replicas are forked."""
LOADED = ("local_provider.loaded", "local_provider.forked")
# What decides how Python or the C library start can only be said to a program that starts.
_STARTING = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "OPENBLAS_", "OMP_")
_KILLED_WITH_ITS_PARENT = 255

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(LOADED))
_loaded_in = os.getpid()
_starting = threading.Lock()


def can_fork(argv: tuple[str, ...], variables: Mapping[str, str]) -> bool:
    """Return whether a replica of a deployment, which sets these variables, can be a fork."""
    return sys.platform == "linux" and argv == SERVED and not any(name.startswith(_STARTING) for name in variables)


class Forked:
    """A forked function, with what is used here of `asyncio.subprocess.Process`."""

    def __init__(self, process: "multiprocessing.context.ForkServerProcess", output: asyncio.StreamReader) -> None:
        assert process.pid is not None  # noqa: S101 - it was started
        self.pid = process.pid
        self.stdout: asyncio.StreamReader | None = output
        self.returncode: int | None = None
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> "Forked":
        """Fork a function with this environment and no other; raise `OSError` when that cannot be."""
        ours, theirs = _context.Pipe(duplex=False)
        # A provider that ends on a fault of its own does not wait for its functions.
        process = _context.Process(target=_serve, args=(dict(environment), theirs), daemon=True)
        starting = asyncio.ensure_future(asyncio.to_thread(_start, process, environment))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait({starting})
            if starting.exception() is None:
                process.kill()
            raise
        finally:
            theirs.close()
        return cls(process, await _reader(ours))

    async def wait(self) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        await self._ended.wait()
        assert self.returncode is not None  # noqa: S101 - it ended
        return self.returncode

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        code = self._process.exitcode
        self.returncode = _KILLED_WITH_ITS_PARENT if code is None else code
        self._process.close()
        self._ended.set()


def _start(process: "multiprocessing.context.ForkServerProcess", environment: Mapping[str, str]) -> None:
    """Start a process, and before it the one that is forked, if that does not run."""
    with _starting:
        try:
            # The one that is forked hands its own environment on, which each fork could look up.
            with _only(environment):
                forkserver.ensure_running()
            process.start()
        except EOFError as error:
            raise OSError(0, "what functions need could not be loaded") from error


@contextmanager
def _only(environment: Mapping[str, str]) -> Iterator[None]:
    """Have nothing in our environment but what a function's says of Python and the system."""
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update({name: value for name, value in environment.items() if not name.startswith("BUCKY_")})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


async def _reader(ours: Connection) -> asyncio.StreamReader:
    output = asyncio.StreamReader()
    pipe = os.fdopen(os.dup(ours.fileno()), "rb", buffering=0)
    ours.close()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(output), pipe)
    return output


def _serve(environment: dict[str, str], output: Connection) -> None:
    """Be the function, in a process that was just forked."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _loaded_in:  # it died before that was set
        return
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_the_provider, daemon=True).start()
    # A function may have processes of its own.
    multiprocessing.current_process().daemon = False
    from bucky.serve.__main__ import main

    with suppress(KeyboardInterrupt):
        main()


def _end_with_the_provider() -> None:
    # The process that was forked lasts as long as its forks, which hold a pipe of it open.
    provider = multiprocessing.parent_process()
    assert provider is not None  # noqa: S101 - it had us forked
    wait([provider.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
