"""Files of certificates: what is refused, and why."""

import ssl
from pathlib import Path

import pytest

from ftd.config import Tls
from ftd.core.errors import FtdError, Kind
from ftd.host import certificates
from tests.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def test_nothing_named_is_no_tls() -> None:
    assert certificates.read(Tls()) is None


def test_a_pair_serves_from_tls_1_2_on(authority: Authority) -> None:
    identity = certificates.read(authority.tls())
    assert identity is not None
    assert identity.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert identity.context.verify_mode is ssl.CERT_NONE
    assert b"PRIVATE KEY" in identity.key
    assert "PRIVATE KEY" not in repr(identity)


def test_an_authority_of_clients_makes_them_show_theirs(authority: Authority) -> None:
    identity = certificates.read(authority.tls(clients=authority))
    assert identity is not None
    assert identity.context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(authority: Authority, mode: int) -> None:
    tls = authority.tls()
    assert tls.key is not None
    tls.key.chmod(mode)
    with pytest.raises(FtdError, match="can be read by others: chmod 600") as caught:
        certificates.read(tls)
    assert caught.value.kind is Kind.FORBIDDEN
    tls.key.chmod(0o640)  # as Debian's group ssl-cert has it
    assert certificates.read(tls) is not None


def test_files_that_are_no_pair(authority: Authority, tmp_path: Path) -> None:
    tls, other = authority.tls(), authority.sign("other")
    with pytest.raises(FtdError, match="are no certificate and its key"):
        certificates.read(tls.model_copy(update={"key": other.key}))
    junk = tmp_path / "junk"
    junk.write_text("junk")
    junk.chmod(0o600)
    for changed in ({"key": junk}, {"certificate": junk}):
        with pytest.raises(FtdError, match="are no certificate and its key"):
            certificates.read(tls.model_copy(update=changed))
    with pytest.raises(FtdError, match="holds no certificates"):
        certificates.read(tls.model_copy(update={"client_ca": junk}))


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_a_file_that_is_not_there(authority: Authority, tmp_path: Path, which: str) -> None:
    tls = authority.tls().model_copy(update={which: tmp_path / "nowhere"})
    with pytest.raises(FtdError, match="nowhere cannot be read: No such file"):
        certificates.read(tls)
