"""The local OpenFaaS provider on one page: settings, functions, proxy, API, one HTTP port."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from bucky import log
from bucky.errors import SettingsError
from bucky.runtime.garbage import freeze_loaded
from bucky.runtime.http_server import HttpServer, stop_signal
from bucky.runtime.process import run_process
from bucky.settings import Settings
from local_provider.api import build_app
from local_provider.durable import make_folder
from local_provider.functions import Functions
from local_provider.process import HOST, inherited_environment
from local_provider.proxy import Proxy, new_client

_log = log.get_logger("provider")


async def serve(settings: Settings) -> int:
    """Take the folder, serve until SIGTERM, then drain; return 1 when a fault of our own stopped us."""
    if not settings.gateway_password.get_secret_value():
        raise SettingsError("BUCKY_GATEWAY_PASSWORD must be set: whoever may deploy can run any command as this user")
    with _sole_use(settings.provider_dir):
        return await _serve(settings)


async def _serve(settings: Settings) -> int:
    stop = stop_signal()
    faults: list[BaseException] = []

    def on_fault(fault: BaseException) -> None:
        # The one place for the unforeseen: end, so that whoever started us starts us afresh.
        _log.error("provider.failed", exc_info=fault)
        faults.append(fault)
        stop.set()

    async with new_client() as client:
        functions = Functions(settings.provider_dir, inherited_environment(os.environ), on_fault)
        app = build_app(
            functions,
            Proxy(functions, client),
            settings.gateway_user,
            settings.gateway_password.get_secret_value(),
        )
        server = HttpServer(app, HOST, settings.provider_port)
        await server.start()
        freeze_loaded()
        functions.restore()
        _log.info("provider.started", url=f"http://{HOST}:{server.port}")
        await stop.wait()
        # Functions end first: their last answers still pass through the server.
        await functions.close()
        await server.stop()
        _log.info("provider.stopped")
    return 1 if faults else 0


def main() -> NoReturn:
    """Run the process."""
    run_process("local_provider", serve)


@contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    make_folder(folder)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"another provider uses {folder}; stop it, or set BUCKY_PROVIDER_DIR to another folder"
            ) from None
        yield


if __name__ == "__main__":
    main()
