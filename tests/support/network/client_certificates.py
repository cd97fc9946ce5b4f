"""TLS contexts of callers, and of a listener that asks who calls."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local_stack.certificates import CertificateFiles


def client(certificates: CertificateFiles) -> ssl.SSLContext:
    """Return the context of a caller that trusts the authority and names itself to nobody."""
    return ssl.create_default_context(cafile=str(certificates.ca))


def named_client(certificates: CertificateFiles, folder: Path) -> ssl.SSLContext:
    """Return the context of a caller whose certificate the authority signed."""
    authority = x509.load_pem_x509_certificate(certificates.ca.read_bytes())
    signer = serialization.load_pem_private_key(certificates.ca.with_name("ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modality")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(authority.not_valid_before_utc)
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(signer, hashes.SHA256())
    )
    chain = folder / "modality.pem"
    chain.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = client(certificates)
    context.load_cert_chain(chain)
    return context


def asking_server(certificates: CertificateFiles) -> ssl.SSLContext:
    """Return the context of a listener that takes callers with a certificate of the authority only."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.cert, certificates.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
