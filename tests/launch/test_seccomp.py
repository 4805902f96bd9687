"""The filter of calls, run here for both processors; tests/security shows the kernel's word."""

import errno
import fcntl
import os
import re
import socket
import struct
from pathlib import Path

import pytest

from ftd.launch.shim import seccomp
from ftd.launch.shim.seccomp import ALLOW, ARGUMENTS, ERRNO, MACHINES, Step, program

MACHINE = pytest.mark.parametrize("machine", MACHINES)
NETWORKS = ("none", "loopback", "online")
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
REFUSED = ERRNO | errno.EPERM


def answer(steps: list[Step], data: bytes) -> int:
    """What a filter says of a struct seccomp_data, by the rules of linux/filter.h."""
    value, at = 0, 0
    while True:
        code, k, jt, jf = steps[at]
        at += 1
        match code:
            case seccomp.LOAD:
                (value,) = struct.unpack_from("<I", data, k)
            case seccomp.AND:
                value &= k
            case seccomp.EQUAL:
                at += jt if value == k else jf
            case seccomp.AT_LEAST:
                at += jt if value >= k else jf
            case seccomp.ANY_BIT:
                at += jt if value & k else jf
            case seccomp.RETURN:
                return k


def call(
    machine: str, numbers: seccomp.Numbers, *arguments: int, network: str = "none", arch: int = 0
) -> int:
    number = numbers[list(MACHINES).index(machine)]
    assert number is not None
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch or MACHINES[machine], 0, *given)
    assert len(data) == ARGUMENTS + 6 * 8
    return answer(program(machine, network), data)


def named() -> dict[str, seccomp.Numbers]:
    denied = {name: numbers for group in seccomp.DENIED.values() for name, numbers in group.items()}
    return denied | seccomp.MODES


def judged() -> dict[str, seccomp.Numbers]:
    """What is refused or not by its arguments, or its network."""
    alone = {name: numbers for name, (numbers, _) in seccomp.OF_ITSELF.items()}
    opening = {name: numbers for name, (numbers, _) in seccomp.OPEN.items()}
    others = {
        "socket": seccomp.SOCKET, "socketpair": seccomp.SOCKETPAIR, "connect": seccomp.CONNECT,
        "clone": seccomp.CLONE, "prctl": seccomp.PRCTL, "flock": seccomp.FLOCK,
    }  # fmt: skip
    return alone | opening | others | seccomp.UNSEEN | seccomp.STAYING


@MACHINE
@pytest.mark.parametrize("name", sorted(named()))
def test_what_is_named_is_refused(machine: str, name: str) -> None:
    numbers = named()[name]
    if numbers[list(MACHINES).index(machine)] is not None:
        assert call(machine, numbers) == REFUSED
        online = ALLOW if name in seccomp.MODES else REFUSED
        assert call(machine, numbers, network="online") == online


@MACHINE
@pytest.mark.parametrize("number", [0, 1, 9, 57, 59, 60, 202, 257, 334, 436])
def test_what_is_not_named_is_allowed(machine: str, number: int) -> None:
    known = {**named(), **judged()}
    if number not in {numbers[list(MACHINES).index(machine)] for numbers in known.values()}:
        assert call(machine, (number, number)) == ALLOW


@MACHINE
def test_only_unix_sockets_with_one_other_end(machine: str) -> None:
    stream, packets = socket.SOCK_STREAM, socket.SOCK_SEQPACKET
    for numbers in (seccomp.SOCKET, seccomp.SOCKETPAIR):
        for kind in (stream, packets, stream | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
            assert call(machine, numbers, socket.AF_UNIX, kind) == ALLOW
        for family, kind in (
            (socket.AF_UNIX, socket.SOCK_DGRAM),
            (socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC),
            (socket.AF_INET, stream),
            (socket.AF_INET6, stream),
            (socket.AF_NETLINK, socket.SOCK_RAW),
        ):
            assert call(machine, numbers, family, kind) == REFUSED
    assert call(machine, seccomp.CONNECT, 3, 1, 1) == REFUSED


@MACHINE
def test_a_job_on_more_devices_speaks_tcp_to_itself(machine: str) -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        assert (
            call(machine, seccomp.SOCKET, family, socket.SOCK_STREAM, network="loopback") == ALLOW
        )
    assert call(machine, seccomp.CONNECT, network="loopback") == ALLOW
    for family, kind in ((socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_NETLINK, 3)):
        assert call(machine, seccomp.SOCKET, family, kind, network="loopback") == REFUSED


@MACHINE
@pytest.mark.parametrize("network", ["loopback", "online"])
def test_who_may_call_has_only_pairs_of_unix_sockets(machine: str, network: str) -> None:
    stream = socket.SOCK_STREAM
    assert call(machine, seccomp.SOCKET, socket.AF_UNIX, stream, network=network) == REFUSED
    assert call(machine, seccomp.SOCKETPAIR, socket.AF_UNIX, stream, network=network) == ALLOW
    datagrams = socket.SOCK_DGRAM
    assert call(machine, seccomp.SOCKETPAIR, socket.AF_UNIX, datagrams, network=network) == REFUSED


@MACHINE
def test_who_fetches_asks_for_names(machine: str) -> None:
    for family, kind in (
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_NETLINK, socket.SOCK_RAW),
    ):
        assert call(machine, seccomp.SOCKET, family, kind, network="online") == ALLOW
    packet = 17  # AF_PACKET
    assert call(machine, seccomp.SOCKET, packet, socket.SOCK_RAW, network="online") == REFUSED


@MACHINE
@pytest.mark.parametrize("network", NETWORKS)
def test_processes_and_threads_but_no_namespaces(machine: str, network: str) -> None:
    threads = 0x3D0F00  # what a C library asks for
    assert call(machine, seccomp.CLONE, threads, network=network) == ALLOW
    assert call(machine, seccomp.CLONE, 17, network=network) == ALLOW  # fork: SIGCHLD
    spaces = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    for bit in (0x8000, *spaces):  # the first: CLONE_PARENT
        assert call(machine, seccomp.CLONE, threads | bit, network=network) == REFUSED
    for numbers in seccomp.UNSEEN.values():
        assert call(machine, numbers, network=network) == ERRNO | errno.ENOSYS


@MACHINE
@pytest.mark.parametrize("name", seccomp.OF_ITSELF)
def test_limits_and_priorities_of_itself_alone(machine: str, name: str) -> None:
    numbers, itself = seccomp.OF_ITSELF[name]
    assert call(machine, numbers, *itself) == ALLOW
    for at in range(len(itself)):
        other = [value + 4711 * (at == index) for index, value in enumerate(itself)]
        assert call(machine, numbers, *other) == REFUSED


@MACHINE
@pytest.mark.parametrize("name", seccomp.OPEN)
def test_a_file_is_cut_short_by_who_may_write_it(machine: str, name: str) -> None:
    numbers, at = seccomp.OPEN[name]
    if numbers[list(MACHINES).index(machine)] is None:
        return
    before = [1] * at
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC):
        assert call(machine, numbers, *before, flags | os.O_CREAT) == ALLOW
    for flags in (os.O_RDONLY, os.O_ACCMODE):  # the last opens it for neither
        refused = ERRNO | errno.EACCES
        assert call(machine, numbers, *before, flags | os.O_TRUNC) == refused


@MACHINE
def test_a_lock_is_taken_and_never_given_up(machine: str) -> None:
    assert call(machine, seccomp.FLOCK, 3, fcntl.LOCK_EX | fcntl.LOCK_NB) == ALLOW
    for at_once in (0, fcntl.LOCK_NB):
        assert call(machine, seccomp.FLOCK, 3, fcntl.LOCK_SH | at_once) == REFUSED
        assert call(machine, seccomp.FLOCK, 3, fcntl.LOCK_UN | at_once) == ERRNO, "told yes"


@MACHINE
@pytest.mark.parametrize("name", seccomp.STAYING)
def test_a_group_is_never_left(machine: str, name: str) -> None:
    assert call(machine, seccomp.STAYING[name], 0, 0) == ERRNO, "told yes"


@MACHINE
def test_a_process_does_not_hide(machine: str) -> None:
    assert call(machine, seccomp.PRCTL, 4, 0) == REFUSED  # PR_SET_DUMPABLE
    for option in (1, 15, 36, 38):  # of a parent's death, names, orphans, privileges
        assert call(machine, seccomp.PRCTL, option, 1) == ALLOW


@MACHINE
def test_another_table_of_calls_is_refused(machine: str) -> None:
    for arch in {0x40000003, *MACHINES.values()} - {MACHINES[machine]}:  # the first: i386
        assert call(machine, (0, 0), arch=arch) == REFUSED
    if machine == "x86_64":
        assert call(machine, (0x40000000, None)) == REFUSED  # x32


@MACHINE
@pytest.mark.parametrize("network", NETWORKS)
def test_no_jump_leads_out_of_it(machine: str, network: str) -> None:
    steps = program(machine, network)
    assert len(steps) < 4096  # BPF_MAXINSNS
    for at, step in enumerate(steps):
        assert max(step.jt, step.jf) < 256
        assert at + 1 + max(step.jt, step.jf) < len(steps) or step.code == seccomp.RETURN


@MACHINE
def test_the_numbers_are_the_kernels(machine: str) -> None:
    """As far as this machine has its header: the newest calls may be missing there."""
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not here")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    known = {name: int(number) for name, number in found}
    for name, numbers in (named() | judged()).items():
        number = numbers[list(MACHINES).index(machine)]
        if number is None:
            assert name not in known
        elif name in known:
            assert number == known[name], name
    assert len(known.keys() & named().keys()) > 40
