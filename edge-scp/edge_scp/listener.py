"""One DICOM port of the edge, and how it starts, stops and drains."""

import threading
import time

from bucky.errors import SettingsError
from bucky.settings import Listener, Settings
from edge_scp.acceptor import Acceptor
from edge_scp.metrics import Metrics
from edge_scp.receiver import Receiver


class DicomListener:
    """One DICOM port, from `start` to `stop`."""

    def __init__(self, listener: Listener, settings: Settings, receiver: Receiver, metrics: Metrics) -> None:
        try:
            self._acceptor = Acceptor(listener, settings, receiver, metrics)
        except OSError as error:
            raise SettingsError(
                f"BUCKY_EDGE_LISTENERS: cannot listen on {listener.host}:{listener.port} "
                f"({error.strerror or error}); is another process using the port?"
            ) from error
        self._thread = threading.Thread(target=self._acceptor.serve_forever, args=(0.1,), daemon=True)

    @property
    def aet(self) -> str:
        """Return its AE title."""
        return self._acceptor.listener.aet

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return int(self._acceptor.server_address[1])

    @property
    def associations(self) -> int:
        """Return how many associations are open."""
        return len(self._acceptor.admitted())

    @property
    def accepting(self) -> bool:
        """Tell whether connections are accepted."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop_accepting(self) -> None:
        """Accept no further connection; associations that are open go on. Blocks for a moment."""
        self._acceptor.stop_accepting()
        self._thread.join()

    def drain(self, seconds: float) -> bool:
        """Let open associations finish for so long, then abort the rest (A-ABORT); tell whether all did."""
        deadline = time.monotonic() + seconds
        while (late := self._acceptor.admitted()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for association in late:
            association.abort()
        return not late
