"""TLS of a listener: who the edge is, and whose certificate it asks for (PS3.15 Annex B)."""

import ssl

from bucky.errors import SettingsError
from bucky.settings import ListenerTls


def server_context(tls: ListenerTls) -> ssl.SSLContext:
    """Return a server context for TLS 1.2 and later (BCP 195, PS3.15 §B.9 to §B.11)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
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
