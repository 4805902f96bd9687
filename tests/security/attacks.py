"""What a worker of ill will tries: names of attacker.ATTACKS and their arguments.

{home}, {run}, {other}, {outside} and {victim} stand for the places and the process of a House.
"""

import sys
from typing import Any

Attack = tuple[Any, ...]

READING: list[Attack] = [
    ("read", "{home}/admin.key"),
    ("read", "{home}/ftd.db"),
    ("read", "{home}/files/others.jsonl"),
    ("read", "{home}/files/training.jsonl"),  # its own input, by the name that all share
    ("read", "{other}/in/training.jsonl"),
    ("read", "{other}/spool"),
    ("read", "{run}/spool"),
    ("read", "{outside}/secret"),
    ("read", "/proc/self/root{home}/admin.key"),
    ("read", "/proc/self/cwd/../run-2/spool"),
    ("read", "/proc/{victim}/root{home}/admin.key"),
    ("read", "/etc/shadow"),
    *(("list", path) for path in ("{home}", "{home}/runs", "{home}/files", "{other}", "/tmp")),
]
CHANGING: list[Attack] = [
    ("write", "{home}/admin.key"),
    ("truncate", "{home}/ftd.db"),
    ("cut", "{home}/ftd.db"),
    ("unlink", "{home}/ftd.db"),
    ("write", "{home}/planted"),
    ("write", "{other}/in/training.jsonl"),
    ("write", "{other}/planted"),
    ("write", "{run}/in/training.jsonl"),
    ("truncate", "{run}/in/training.jsonl"),
    ("cut", "{run}/in/training.jsonl"),
    ("append", "{run}/in/training.jsonl"),
    ("unlink", "{run}/in/training.jsonl"),
    ("write", "{run}/in/planted"),
    ("mkdir", "{run}/in/planted"),
    ("write", "{run}/exit.json"),
    ("append", "{run}/spool"),
    ("append", "{run}/assigned.json"),
    ("unlink", "{run}/control.sock"),
    ("write", "{outside}/planted"),
    ("write", "/tmp/ftd-planted"),
    ("write", "/dev/shm/ftd-planted"),
    ("write", f"{sys.prefix}/ftd-planted"),
    ("write", "/proc/self/comm"),
]
# What it may read is the same file as in the home, under another name.
OPENING: list[Attack] = [
    (attack, path)
    for attack in ("chmod", "fchmod", "chown", "setxattr", "utime")
    for path in ("{home}/admin.key", "{run}/in/training.jsonl")
]
BRINGING: list[Attack] = [
    ("link", "{run}/in/training.jsonl", "{run}/out/mine"),
    ("rename", "{run}/in/training.jsonl", "{run}/out/mine"),
    ("link", "{home}/admin.key", "{run}/out/mine"),
    ("rename", "{home}/admin.key", "{run}/out/mine"),
    ("link", "{other}/in/training.jsonl", "{run}/out/mine"),
]
TRAPPING: list[Attack] = [
    ("symlink", "/etc/passwd", "{run}/out/link"),
    ("mkfifo", "{run}/out/pipe"),
    ("run own", "{run}/out/mine"),
]
CALLING: list[Attack] = [
    ("socket", "AF_INET", "SOCK_STREAM"),
    ("socket", "AF_INET6", "SOCK_STREAM"),
    ("socket", "AF_INET", "SOCK_DGRAM"),
    ("socket", "AF_INET6", "SOCK_DGRAM"),
    ("socket", "AF_INET", "SOCK_RAW"),
    ("socket", "AF_NETLINK", "SOCK_RAW"),
    ("socket", "AF_PACKET", "SOCK_RAW"),
    ("socket", "AF_VSOCK", "SOCK_STREAM"),
    ("socket", "AF_ALG", "SOCK_SEQPACKET"),
    ("socket", "AF_UNIX", "SOCK_DGRAM"),
    ("pair", "SOCK_DGRAM"),  # whose ends can be sent elsewhere
    ("connect", "SOCK_STREAM", "control.sock"),  # its own shim would obey: it is of the same user
    ("connect", "SOCK_STREAM", "../../ftd.sock"),  # the daemon's
    ("connect", "SOCK_STREAM", "@ftd-canary-{victim}"),
]
REACHING: list[Attack] = [
    (attack, "{victim}") for attack in ("kill", "pidfd", "attach", "peek", "steal", "starve")
]
SLOWING: list[Attack] = [
    ("slow", "{victim}"),
    ("idle", "{victim}"),
    ("pin", "{victim}"),
    ("call", "ioprio_set", 1, "{victim}", 3 << 13),  # IOPRIO_CLASS_IDLE
]
LOOKING: list[Attack] = [
    ("read", f"/proc/{{victim}}/{file}") for file in ("environ", "maps", "fd/0", "auxv")
]
# Some lack what the kernel wants of them: it says so, unless it is asked no such thing at all.
ASKING: list[Attack] = [
    ("call", "bpf", 0, 0, 0),
    ("call", "perf_event_open", 0, 0, -1, -1, 0),
    ("call", "userfaultfd", 0),
    ("call", "io_uring_setup", 1, 0),
    ("call", "keyctl", 0, 0),
    ("call", "add_key", "user", "canary", "x", 1, -1),
    ("call", "mount", "none", "/proc", "canary", 0, 0),
    ("call", "unshare", 0x10000000),  # CLONE_NEWUSER
    ("call", "setns", 0, 0),
    ("clone", 0x10000000 | 17),
    ("clone", 0x8000 | 17),  # CLONE_PARENT
    ("call", "open_by_handle_at", -100, 0, 0),
    ("call", "chroot", "/"),
    ("call", "kcmp", "{victim}", "{victim}", 0, 0, 0),
    ("call", "mq_open", "canary", 0),
    ("keep memory",),
    ("hide",),
    ("share",),
]
ATTACKS = [
    *READING, *CHANGING, *OPENING, *BRINGING, *TRAPPING, *CALLING, *REACHING, *SLOWING, *LOOKING,
    *ASKING,
]  # fmt: skip


def name(value: object) -> str | None:
    """Of an attack, for people who read what has failed."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else None
