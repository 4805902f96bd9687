"""What `ftd check` says of a configuration before a daemon has to find out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.config import Tls
from tests.authority import Authority
from tests.running import CALM


def checked(home: Path, tls: Tls, more: str = "") -> subprocess.CompletedProcess[str]:
    config = home.parent / "ftd.toml"
    paths = {name: path for name, path in tls.model_dump().items() if path is not None}
    lines = "".join(f'{name} = "{path}"\n' for name, path in paths.items())
    config.write_text(f"{more}[tls]\n{lines}")
    return subprocess.run(
        [sys.executable, "-m", "ftd", "check", "--home", str(home), "--config", str(config)],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | CALM,
    )  # fmt: skip


def lines(done: subprocess.CompletedProcess[str], begin: str) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith(begin)]


def test_tls_is_told_of_both_faces(tmp_path: Path) -> None:
    tls = Authority(tmp_path / "ca").tls(clients=Authority(tmp_path / "clients"))
    done = checked(
        tmp_path / "home", tls, 'rest = "0.0.0.0:8420"\ngrpc = ["0.0.0.0:8421", "[::]:8421"]\n'
    )
    assert (done.returncode, lines(done, "problem")) == (0, []), done.stdout + done.stderr
    (rest,), (grpc,) = lines(done, "REST"), lines(done, "gRPC")
    assert rest.split() == ["REST", "0.0.0.0:8420", "(TLS)"]
    assert grpc.split(maxsplit=1)[1] == "unix socket, 0.0.0.0:8421 (TLS), [::]:8421 (TLS)"
    assert "PRIVATE KEY" not in done.stdout


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("open", "can be read by others: chmod 600"),
        ("gone", "cannot be read: No such file"),
        ("another's", "are no certificate and its key"),
        ("no certificate", "are no certificate and its key"),
        ("no authority", "holds no certificates"),
    ],
)
def test_what_stands_in_the_way_of_tls_is_a_problem(tmp_path: Path, harm: str, said: str) -> None:
    authority = Authority(tmp_path / "ca")
    tls = authority.tls(clients=Authority(tmp_path / "clients"))
    assert tls.key is not None
    match harm:
        case "open":
            tls.key.chmod(0o644)
        case "gone":
            tls.key.unlink()
        case "another's":
            tls = tls.model_copy(update={"key": authority.sign("other").key})
        case "no certificate":
            tls = tls.model_copy(update={"certificate": tls.key})
        case _:
            tls = tls.model_copy(update={"client_ca": tls.key})
    done = checked(tmp_path / "home", tls)
    assert done.returncode == 1
    (problem,) = lines(done, "problem")
    assert said in problem
    assert "Traceback" not in done.stderr
