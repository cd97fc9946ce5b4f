"""Runs an ASGI app under uvicorn, with signals left to the process so that it can drain first."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from bucky.errors import SettingsError

# Longer than any client of ours keeps an idle connection, so that we never close one under a request.
KEEP_ALIVE_SECONDS = 75


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """An HTTP server inside a running event loop; `port` is the real one, also when 0 was asked for."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        self._address = (host, port)
        self._server = _Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=5,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self.port = port

    async def start(self) -> None:
        """Listen; raise `SettingsError` when the port is taken."""
        host, port = self._address
        try:
            sock = self._server.config.bind_socket()
        except SystemExit:
            raise SettingsError(f"port {port} on {host} is taken; stop what uses it or set another") from None
        # uvicorn's listener has no protocol number, so asyncio does not set this: answers stalled for 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = sock.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]))
        await self._server.listening.wait()

    async def stop(self) -> None:
        """Stop listening and finish the requests in hand."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets, once, in the running loop."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event
