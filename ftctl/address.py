"""Where the daemon is and by which key it knows us: the first of several places that answers."""

import ipaddress
import os
import re
import socket
import time
from pathlib import Path

from ftctl import starting
from ftctl.failure import Failure, Status
from ftctl.output import say
from ftctl.tls import SCHEME

SYSTEM_SOCKET = Path("/run/ftd/ftd.sock")
MAX_UNIX_PATH_BYTES = 107
LOOK_S = 0.1  # how often a daemon that starts is looked for


def home() -> Path:
    """The daemon's home as it chooses it: $FTD_HOME, else ~/.local/share/ftd."""
    if chosen := os.environ.get("FTD_HOME"):
        return Path(chosen).expanduser()
    return Path.home() / ".local" / "share" / "ftd"


def target(addr: str | None) -> str:
    """The gRPC target: `addr`, else $FTD_ADDR, else the home's socket, else the system's.

    An address is a socket's path (with or without `unix:`), HOST:PORT on loopback, or
    `tls://HOST:PORT`; another host's HOST:PORT becomes the last, so that no key travels in clear.
    Raises Failure when nothing is there: at once, but for a daemon that has only just been
    started, which is waited for; and for a link to a socket of somebody else.
    """
    if given := addr or os.environ.get("FTD_ADDR"):
        return _parse(given)
    candidates = (home() / "ftd.sock", SYSTEM_SOCKET)
    for path in candidates:
        _refuse_anothers(path)
    if found := _listening(candidates):
        return _unix(found)
    begun = starting.daemons()  # who comes later is not waited for: they may be many
    if begun:
        say("a daemon is starting; waiting for it ...")
    while any(map(starting.is_starting, begun)):
        time.sleep(LOOK_S)
        if found := _listening(candidates):
            return _unix(found)
    for path in candidates:
        if _is_there(path):
            return _unix(path)
    raise Failure(
        f"no daemon is running: there is no socket at {' or '.join(map(str, candidates))}",
        hint="start one with `ftd serve`, or name yours with --addr, FTD_ADDR or FTD_HOME",
        status=Status.UNREACHABLE,
    )


def key(given: str | None) -> str | None:
    """The key: `given`, else $FTD_API_KEY, else admin.key of the home, else ~/.config/ftd/key.

    None when there is none; the daemon then says what it wants. Raises Failure for one that
    cannot be sent.
    """
    found = given or os.environ.get("FTD_API_KEY")
    for path in (home() / "admin.key", Path.home() / ".config" / "ftd" / "key"):
        found = found or _read(path)
    if found is None:
        return None
    if not (found.isascii() and found.isprintable()):
        raise Failure("the key holds characters that no key has", status=Status.USAGE)
    return found


def _parse(address: str) -> str:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        return _unix(Path(path.removeprefix("//")))
    if "/" in address and "://" not in address:
        return _unix(Path(address))
    bare = address.removeprefix(SCHEME)
    host, colon, port = bare.rpartition(":")
    named = re.fullmatch(r"\[[^\[\]/]+\]|[^:/\[\]]+", host)
    if not colon or not named or not port.isdigit() or int(port) > 65535:
        raise Failure(
            f"{address!r} is no address",
            hint="give the path of a socket, HOST:PORT, or tls://HOST:PORT",
            status=Status.USAGE,
        )
    if host == "localhost" or _is_loopback(host):
        return address
    return SCHEME + bare


def _unix(path: Path) -> str:
    """The link is followed first: a socket's own path is limited, a link to it is not."""
    resolved = path.expanduser().resolve()
    if len(os.fsencode(resolved)) > MAX_UNIX_PATH_BYTES:
        raise Failure(
            f"{resolved} is longer than the {MAX_UNIX_PATH_BYTES} bytes of a socket's path",
            hint="name it by a shorter path",
            status=Status.USAGE,
        )
    return f"unix:{resolved}"


def _listening(candidates: tuple[Path, ...]) -> Path | None:
    """The first socket at which somebody listens; a killed daemon leaves its socket behind."""
    for path in candidates:
        try:
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(os.fsencode(path.resolve()))
        except OSError:
            continue
        return path
    return None


def _refuse_anothers(path: Path) -> None:
    """A killed daemon leaves its link behind. The directory that it names goes with a reboot, and
    anybody may make it anew who wants to be told keys."""
    try:
        owners = {path.lstat().st_uid, path.resolve().stat().st_uid}
    except OSError:
        return
    if len(owners) > 1:
        raise Failure(
            f"{path} leads to a socket of somebody else: {path.resolve()}",
            hint="remove it and start `ftd serve`, or name the daemon with --addr",
            status=Status.NOT_ALLOWED,
        )


def _is_there(path: Path) -> bool:
    """Whether we can see it: what lies in a directory that is closed to us is not for us."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _read(path: Path) -> str | None:
    """The key in a file; a file that is absent, empty or another user's holds none."""
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
