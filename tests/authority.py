"""Certificates for tests, made when they are needed."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from ftd.config import Tls


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and lies as `ca` in its directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._ca = trustme.CA()
        self.ca = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def sign(self, name: str) -> Pair:
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        signed = self._ca.issue_cert("localhost", "127.0.0.1", common_name=name)
        for number, part in enumerate(signed.cert_chain_pems):
            part.write_to_path(pair.certificate, append=number > 0)
        signed.private_key_pem.write_to_path(pair.key)
        pair.key.chmod(0o600)
        return pair

    def tls(self, *, clients: "Authority | None" = None) -> Tls:
        """A server's section of the configuration."""
        pair = self.sign("server")
        return Tls(
            certificate=pair.certificate,
            key=pair.key,
            client_ca=None if clients is None else clients.ca,
        )
