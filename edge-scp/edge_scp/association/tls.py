"""TLS of a listener: who the edge is, and whose certificate it asks for (PS3.15 Annex B)."""

import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bucky.errors import SettingsError
from bucky.log import get_logger
from bucky.text.listeners import ListenerTls

log = get_logger("edge")

# RFC 9325 §4.2: forward secrecy and authenticated encryption. TLS 1.3 has nothing else.
_TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(tls: ListenerTls) -> ssl.SSLContext:
    """Return a server context of the BCP 195 profile: TLS 1.2 and later, RFC 9325's ciphers (PS3.15 §B.9 to §B.11)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Handshake
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise SettingsError(
            f"BUCKY_EDGE_LISTENERS: cannot read the certificate, key or client CA of {tls.cert_file}: {error}"
        ) from error
    return context


class _Handshake(ssl.SSLObject):
    """A TLS connection that says why its handshake fails."""

    send_alert: Callable[[], object]

    def do_handshake(self) -> None:
        """Go on with the handshake; raise `ssl.SSLError` when it failed, after the alert was sent."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                self.send_alert()
            raise


class Alerting:
    """A context for one connection: asyncio would close it without sending the alert of a failed handshake."""

    def __init__(self, context: ssl.SSLContext, connection: socket.socket) -> None:
        self._context, self._connection = context, connection

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **how: Any) -> ssl.SSLObject:
        """Wrap, as `ssl.SSLContext` does."""
        tls = self._context.wrap_bio(incoming, outgoing, **how)
        if isinstance(tls, _Handshake):
            tls.send_alert = lambda: self._connection.send(outgoing.read())
        return tls


class ReloadedTls:
    """A listener's TLS context, made anew when its files have changed: a renewal needs no restart."""

    def __init__(self, tls: ListenerTls) -> None:
        self._tls = tls
        self._files = [path for path in (tls.cert_file, tls.key_file, tls.client_ca_file) if path is not None]
        self._seen = self._state()
        self._context = server_context(tls)

    def context(self) -> ssl.SSLContext:
        """Return the context for the next handshake; the last good one while the files are unusable."""
        state = self._state()
        if state != self._seen:
            self._seen = state
            try:
                self._context = server_context(self._tls)
            except SettingsError as error:
                # A certificate and its key are two files: between their changes they do not match.
                log.warning("tls.reload_failed", error=str(error))
            else:
                log.info("tls.reloaded", cert_file=str(self._tls.cert_file))
        return self._context

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(path) for path in self._files]


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
