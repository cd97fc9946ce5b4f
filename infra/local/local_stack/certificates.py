"""A certificate authority for this machine alone, and the server certificate it signs.

The authority's key is kept so that a renewed server certificate is trusted by whoever trusted the last.
"""

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES = ("localhost", "127.0.0.1", "::1")
AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # browsers refuse more
RENEW_BEFORE = timedelta(days=30)
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class CertificateFiles:
    """Files in PEM: the authority users may trust, the server's chain, and the server's key."""

    ca: Path
    cert: Path
    key: Path


def ensure_certificates(folder: Path, names: Iterable[str] = NAMES) -> CertificateFiles:
    """Return certificates for these names; make or renew what is missing, near expiry or for other names."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key_file = folder / "ca-key.pem"
    files = CertificateFiles(ca=folder / "ca.pem", cert=folder / "server.pem", key=folder / "server-key.pem")
    wanted = tuple(dict.fromkeys(names))
    if not _authority_is_good(files.ca, ca_key_file):
        ca_key = ec.generate_private_key(ec.SECP256R1())
        _write(ca_key_file, _private_pem(ca_key), 0o600)
        _write(files.ca, _pem(_authority(ca_key)), 0o644)
    if not _server_is_good(files, wanted):
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _server(key, wanted, _certificate(files.ca), _private_key(ca_key_file))
        _write(files.key, _private_pem(key), 0o600)
        _write(files.cert, _pem(signed), 0o644)
    return files


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    # The random part keeps two stacks on one machine apart in a browser's list.
    name = _name(f"Bucky local authority {secrets.token_hex(4)}")
    return (
        _draft(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    names: tuple[str, ...],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    ca_public = ca_key.public_key()
    return (
        _draft(_name(names[0]), ca.subject, key, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_public), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _authority_is_good(ca_file: Path, key_file: Path) -> bool:
    try:
        ca, key = _certificate(ca_file), _private_key(key_file)
    except (OSError, ValueError, TypeError):
        return False
    return ca.public_key() == key.public_key() and _lasts(ca)


def _server_is_good(files: CertificateFiles, names: tuple[str, ...]) -> bool:
    try:
        cert, key, ca = _certificate(files.cert), _private_key(files.key), _certificate(files.ca)
        cert.verify_directly_issued_by(ca)
        held = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    same_names = set(held) == {_general_name(name) for name in names}
    return same_names and cert.public_key() == key.public_key() and _lasts(cert)


def _lasts(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path.name} is not an elliptic-curve key")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    # Never readable by others, not even for a moment; never half written.
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
