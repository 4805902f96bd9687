"""By what we are known over TLS: read at the start, or refused with a reason that can be mended."""

import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ftd.config import Tls
from ftd.core.errors import FtdError, Kind, invalid

# The owner alone writes a private key, and at most a group of its own (ssl-cert) reads it.
OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a server needs for TLS: as PEM, and as a context for asyncio."""

    key: bytes = field(repr=False)
    certificate: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


def read(tls: Tls) -> Identity | None:
    """What `[tls]` names, or None where it names nothing. Raises FtdError for files that are not
    there, are no pair of certificate and key, or for a key that others can read."""
    if tls.certificate is None or tls.key is None:
        return None
    key = _private(tls.key)
    return Identity(
        key=key,
        certificate=_bytes(tls.certificate),
        client_ca=None if tls.client_ca is None else _bytes(tls.client_ca),
        context=_context(tls.certificate, tls.key, tls.client_ca),
    )


def _context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password: OpenSSL would ask the terminal for one otherwise.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise invalid(
            f"tls: {certificate} and {key} are no certificate and its key without a password: "
            f"{error}"
        ) from error
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise invalid(f"tls.client_ca: {client_ca} holds no certificates: {error}") from error
    return context


def _private(path: Path) -> bytes:
    found = _bytes(path)
    if path.stat().st_mode & OPEN_TO_OTHERS:
        raise FtdError(Kind.FORBIDDEN, f"tls.key: {path} can be read by others: chmod 600 {path}")
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(f"tls: {path} cannot be read: {error.strerror}") from error
