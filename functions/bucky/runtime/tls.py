"""Connecting to others over TCP and TLS: whom to trust, who we are, and what went wrong in words."""

import ssl
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from bucky.errors import DestinationUnavailable

ANSWER_FACTOR = 4
"""How much longer than a connection an HTTP server's answer may take: it stores what it got before it answers, and over
a slow line some of that is still on its way when all has been handed to the system."""
MISCONFIGURED_RETRY_SECONDS = 30.0
"""Somebody must put it right first: no need to ask every second."""


def trust(url: str) -> ssl.SSLContext | bool:
    """Return what an HTTP client of this URL verifies a server with: the public authorities, or nothing without TLS.

    They are read once, which takes as long as forty requests.
    """
    return False if urlsplit(url).scheme == "http" else _public_authorities()


@cache
def _public_authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def client_context(ca_file: Path | None, identity_file: Path | None = None) -> ssl.SSLContext:
    """Return a context that trusts the authority in a file, or the public ones, and shows our certificate.

    Raises `DestinationUnavailable` when a file cannot be used: an administrator can put that right.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        raise DestinationUnavailable(
            f"the file of its certificate authority, {ca_file}, cannot be read: {in_words(error)}",
            MISCONFIGURED_RETRY_SECONDS,
        ) from error
    if identity_file is not None:
        try:
            context.load_cert_chain(identity_file)
        except OSError as error:
            raise DestinationUnavailable(
                f"{identity_file.name} does not hold a certificate chain and its private key in PEM",
                MISCONFIGURED_RETRY_SECONDS,
            ) from error
    return context


def in_words(error: OSError | UnicodeError) -> str:
    """Say why a connection failed, or a file could not be read."""
    if isinstance(error, UnicodeError):
        return "that is not a host name"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or type(error).__name__
