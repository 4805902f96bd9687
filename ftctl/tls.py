"""Over a network: whom ftctl believes, and by which certificate it shows who it is."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftctl.failure import Failure, Status

if TYPE_CHECKING:
    import grpc

SCHEME = "tls://"


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. Without `ca` the authorities that gRPC brings are believed."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def given(cls, ca: Path | None, certificate: Path | None, key: Path | None) -> "Tls":
        """The options, else $FTD_TLS_CA, $FTD_TLS_CERT and $FTD_TLS_KEY. Raises Failure for a
        certificate without its key, or a key alone."""
        found = cls(
            ca or _path("FTD_TLS_CA"),
            certificate or _path("FTD_TLS_CERT"),
            key or _path("FTD_TLS_KEY"),
        )
        if (found.certificate is None) != (found.key is None):
            raise Failure(
                "a certificate and its key belong together",
                hint="give both --cert and --client-key, or FTD_TLS_CERT and FTD_TLS_KEY",
                status=Status.USAGE,
            )
        return found

    def credentials(self) -> "grpc.ChannelCredentials":
        """Raises Failure for a file that cannot be read."""
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", status=Status.USAGE) from error
