"""seccomp: which calls of the kernel a process may not make, said once, never to be widened.

What files are to Landlock, calls are here: those by which a process would reach another, the
network, or parts of the kernel that no worker needs. A filter sees numbers and no memory, so no
path and no address. Everything that is not named is allowed: libraries and drivers call what they
like, and a list of all that would be another for each of their versions.
"""

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

# By name: the number on x86_64 and on aarch64, None where there is no such call.
Numbers = tuple[int | None, int | None]

DENIED: dict[str, dict[str, Numbers]] = {
    "into other processes": {
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "process_madvise": (440, 440),
        "pidfd_getfd": (438, 438),
        "kcmp": (312, 272),
    },
    "into the kernel": {
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "userfaultfd": (323, 282),
        "io_uring_setup": (425, 425),  # does what other calls do, past this filter
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "keyctl": (250, 219),
        "init_module": (175, 105),
        "finit_module": (313, 273),
        "delete_module": (176, 106),
        "kexec_load": (246, 104),
        "kexec_file_load": (320, 294),
        "syslog": (103, 116),
    },
    # Who may name them is of the same user, and they stay when all that made them has ended.
    "memory and messages that nobody's end frees": {
        "shmget": (29, 194),
        "shmat": (30, 196),
        "shmctl": (31, 195),
        "semget": (64, 190),
        "semop": (65, 193),
        "semctl": (66, 191),
        "semtimedop": (220, 192),
        "msgget": (68, 186),
        "msgsnd": (69, 189),
        "msgrcv": (70, 188),
        "msgctl": (71, 187),
        "mq_open": (240, 180),
        "mq_unlink": (241, 181),
    },
    "into other namespaces, and around the paths of files": {
        "truncate": (76, 45),  # of what may only be read, where Landlock is older than 3
        "unshare": (272, 97),
        "setns": (308, 268),
        "mount": (165, 40),
        "umount2": (166, 39),
        "pivot_root": (155, 41),
        "chroot": (161, 51),
        "open_tree": (428, 428),
        "open_tree_attr": (467, 467),
        "move_mount": (429, 429),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        "open_by_handle_at": (304, 265),
        "fanotify_init": (300, 262),
    },
    "the machine's own matters": {
        "reboot": (169, 142),
        "swapon": (167, 224),
        "swapoff": (168, 225),
        "sethostname": (170, 161),
        "setdomainname": (171, 162),
        "acct": (163, 89),
        "quotactl": (179, 60),
        "quotactl_fd": (443, 443),
        "settimeofday": (164, 170),
        "clock_settime": (227, 112),
        "iopl": (172, None),
        "ioperm": (173, None),
        "vhangup": (153, 58),
    },
}
# Landlock guards what is in a file, not who may open it, nor when it was changed: a worker that
# cannot read the key of its owner's home could open it to everybody else.
MODES: dict[str, Numbers] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
# The limits and the share of the processor that any process of the same user could be given: by
# which arguments one means oneself.
OF_ITSELF: dict[str, tuple[Numbers, tuple[int, ...]]] = {
    "prlimit64": ((302, 261), (0,)),
    "sched_setparam": ((142, 118), (0,)),
    "sched_setscheduler": ((144, 119), (0,)),
    "sched_setaffinity": ((203, 122), (0,)),
    "sched_setattr": ((314, 274), (0,)),
    "setpriority": ((141, 140), (0, 0)),  # PRIO_PROCESS
    "ioprio_set": ((251, 30), (1, 0)),  # IOPRIO_WHO_PROCESS
}
# Who ends a worker ends its group. Libraries that start helpers in groups of their own hear yes.
STAYING: dict[str, Numbers] = {"setpgid": (109, 154), "setsid": (112, 157)}
SOCKET: Numbers = (41, 198)
SOCKETPAIR: Numbers = (53, 199)
CONNECT: Numbers = (42, 203)
CLONE: Numbers = (56, 220)
PRCTL: Numbers = (157, 167)
OPEN: dict[str, tuple[Numbers, int]] = {"open": ((2, None), 1), "openat": ((257, 56), 2)}  # flags
FLOCK: Numbers = (73, 32)
UNSEEN: dict[str, Numbers] = {"clone3": (435, 435), "openat2": (437, 437)}
_SECCOMP: Numbers = (317, 277)

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h
_X32 = 0x40000000  # a second table of calls on x86_64
_NAMESPACES = 0x7E020000  # CLONE_NEW* of linux/sched.h
_CLONE_PARENT = 0x8000
_DUMPABLE = 4  # PR_SET_DUMPABLE of linux/prctl.h
_TRUNCATE = 0x200  # O_TRUNC of asm-generic/fcntl.h; the two lowest bits: to read, write, or both
_SHARE, _UNLOCK, _AT_ONCE = 1, 8, 4  # LOCK_SH, LOCK_UN and LOCK_NB of asm-generic/fcntl.h
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16  # AF_* of linux/socket.h

ALLOW, ERRNO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_*
LOAD, AND, RETURN = 0x20, 0x54, 0x06  # linux/bpf_common.h: a word at k; & k; k
EQUAL, AT_LEAST, ANY_BIT = 0x15, 0x35, 0x45  # jump by jt if so, else by jf
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_SET_MODE_FILTER, _SPEC_ALLOW = 1, 1 << 2  # linux/seccomp.h


class Step(NamedTuple):
    """One instruction, a struct sock_filter."""

    code: int
    k: int
    jt: int = 0
    jf: int = 0


def program(machine: str, network: str) -> list[Step]:
    """The filter for a processor.

    `network` is "none": unix sockets that nobody is called by, such as pairs, and to be called at;
    "loopback": TCP, to call and be called, and pairs; "online": TCP, UDP and pairs, and modes of
    files can be changed, as those who fetch do. Who may call has no unix socket to call with: the
    daemon's would hear it, and a shim would obey.
    """
    own = _column(machine)
    steps = [
        Step(LOAD, ARCH),
        Step(EQUAL, MACHINES[machine], 1, 0),
        _refuse(),  # a call of another processor's table has numbers of its own
        Step(LOAD, NUMBER),
    ]
    if machine == "x86_64":
        steps += [Step(AT_LEAST, _X32, 0, 1), _refuse()]
    denied = [numbers for group in DENIED.values() for numbers in group.values()]
    if network != "online":
        denied += MODES.values()
    if network == "none":
        denied.append(CONNECT)
    for numbers in denied:
        steps += _when(numbers[own], [_refuse()])
    # Their flags lie in memory: C libraries take the older ones where there are none.
    for numbers in UNSEEN.values():
        steps += _when(numbers[own], [_refuse(errno.ENOSYS)])
    for numbers in STAYING.values():
        steps += _when(numbers[own], [_refuse(0)])
    # A child of one's parent is one that the parent does not know, and never reaps.
    elsewhere = Step(ANY_BIT, _NAMESPACES | _CLONE_PARENT, 0, 1)
    steps += _when(CLONE[own], [_argument(0), elsewhere, _refuse(), _allow()])
    # Who cannot be dumped is hidden by a /proc that shows one's own: the shim would not find it.
    dumpable = Step(EQUAL, _DUMPABLE, 0, 1)
    steps += _when(PRCTL[own], [_argument(0), dumpable, _refuse(), _allow()])
    for numbers, itself in OF_ITSELF.values():
        steps += _when(numbers[own], _only(itself))
    for numbers, flags in OPEN.values():
        steps += _when(numbers[own], _opened(flags))
    steps += _when(FLOCK[own], _locked())
    steps += _when(SOCKET[own], _sockets(network))
    steps += _when(SOCKETPAIR[own], _stream([_UNIX]))
    return [*steps, _allow()]


def _only(values: tuple[int, ...]) -> list[Step]:
    """A call whose first arguments are these."""
    compared = [(_argument(at), Step(EQUAL, value, 1, 0)) for at, value in enumerate(values)]
    return [*(step for load, equal in compared for step in (load, equal, _refuse())), _allow()]


def _opened(flags: int) -> list[Step]:
    """A file that is cut short is opened to be written: before Landlock 3 nobody else asks."""
    return [
        _argument(flags),
        Step(ANY_BIT, _TRUNCATE, 0, 4),
        Step(AND, 0b11),
        Step(EQUAL, 1, 2, 0),  # O_WRONLY
        Step(EQUAL, 2, 1, 0),  # O_RDWR
        _refuse(errno.EACCES),
        _allow(),
    ]


def _locked() -> list[Step]:
    """A lock that is not given up, in whole or in part, before its file is closed: those of the job
    and its devices are the shim's too. Libraries free theirs and then close: they are told yes."""
    return [
        _argument(1),
        Step(AND, 0xFFFFFFFF & ~_AT_ONCE),
        Step(EQUAL, _UNLOCK, 0, 1),
        _refuse(0),
        Step(EQUAL, _SHARE, 0, 1),
        _refuse(),
        _allow(),
    ]


def _sockets(network: str) -> list[Step]:
    match network:
        case "none":
            return _stream([_UNIX])
        case "loopback":
            return _stream([_INET, _INET6])
        case _:
            return [*_families([_INET, _INET6, _NETLINK]), _allow()]


def _column(machine: str) -> int:
    """Where this processor's numbers are in a pair of Numbers."""
    return list(MACHINES).index(machine)


def _stream(families: list[int]) -> list[Step]:
    """Sockets of these families that have one other end: a datagram can be sent to any name."""
    return [
        *_families(families),
        _argument(1),
        Step(AND, 0xF),  # without SOCK_CLOEXEC and SOCK_NONBLOCK
        Step(EQUAL, 1, 2, 0),  # SOCK_STREAM
        Step(EQUAL, 5, 1, 0),  # SOCK_SEQPACKET
        _refuse(),
        _allow(),
    ]


def _families(families: list[int]) -> list[Step]:
    """Go on with a socket of these families."""
    found = len(families)
    asked = [Step(EQUAL, family, found - at, 0) for at, family in enumerate(families)]
    return [_argument(0), *asked, _refuse()]


def _when(number: int | None, steps: list[Step]) -> list[Step]:
    """These steps if it is that call; they end with an answer."""
    return [] if number is None else [Step(EQUAL, number, 0, len(steps)), *steps]


def _argument(index: int) -> Step:
    """The lower half of a call's argument, on processors whose lower half comes first."""
    return Step(LOAD, ARGUMENTS + 8 * index)


def _refuse(error: int = errno.EPERM) -> Step:
    return Step(RETURN, ERRNO | error)


def _allow() -> Step:
    return Step(RETURN, ALLOW)


def available() -> bool:
    """Whether this kernel takes filters, and we know its processor's numbers."""
    machine = platform.machine()
    if machine not in MACHINES:
        return False
    action = struct.pack("=I", ERRNO)
    number = _SECCOMP[_column(machine)]
    return int(ctypes.CDLL(None).syscall(number, 2, 0, action)) == 0  # SECCOMP_GET_ACTION_AVAIL


def install(network: str) -> None:
    """Filter the calls of this thread, and of all that it will start. Raises OSError.

    Without the brakes on speculation that older kernels put on whoever has a filter: they are
    against reading one's own memory, and cost a trainer its speed.
    """
    machine = platform.machine()
    steps = program(machine, network)
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("=HBBI", step.code, step.jt, step.jf, step.k) for step in steps)
    )
    filter_ = struct.pack("@HP", len(steps), ctypes.addressof(code))
    number = _SECCOMP[_column(machine)]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _SET_MODE_FILTER, _SPEC_ALLOW, filter_) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")
