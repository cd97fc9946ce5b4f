"""Serve the handler named by `BUCKY_HANDLER` until SIGTERM, then finish what is in flight."""

import asyncio
import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from bucky import log
from bucky.runtime.garbage import freeze_loaded
from bucky.runtime.http_server import HttpServer, stop_signal
from bucky.runtime.process import run_process
from bucky.serve.app import FunctionApp
from bucky.serve.dependencies import Dependencies
from bucky.serve.handlers import load_handler
from bucky.settings import Settings

DRAIN_SECONDS = 25.0
_PR_SET_NAME = 15


async def serve(settings: Settings) -> int:
    """Wire the process, run it, and return its exit code."""
    handler = load_handler(settings.handler)
    _name_process(handler.function)
    logger = log.get_logger(handler.function)
    dependencies = Dependencies(handler, settings)
    app = FunctionApp(
        handler,
        dependencies,
        max_body_bytes=settings.serve_max_body_bytes,
        max_in_flight=settings.serve_max_in_flight,
    )
    server = HttpServer(app.asgi, settings.serve_host, settings.serve_port)
    # One thread per batch in flight, and some to check the dependencies when all are busy.
    workers = ThreadPoolExecutor(settings.serve_max_in_flight + 4)
    asyncio.get_running_loop().set_default_executor(workers)
    stop = stop_signal()
    await server.start()
    freeze_loaded()
    logger.info("function.started", function=handler.function, port=server.port, needs=handler.dependencies)

    opening = asyncio.create_task(dependencies.open())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if opening.done():
        opening.result()
    await stopping

    opening.cancel()
    drained = await app.drain(DRAIN_SECONDS)
    await server.stop()
    logger.info("function.stopped", function=handler.function, drained=drained)
    if not drained:
        # A handler's thread cannot be stopped; its events were not answered for and will come again.
        os._exit(1)
    await dependencies.close()
    return 0


def _name_process(name: str) -> None:
    """Have `top` and `ps -o comm` show the function's name, of which there is room for fifteen characters."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def main() -> NoReturn:
    """Run the process."""
    run_process("bucky.serve", serve)


if __name__ == "__main__":
    main()
