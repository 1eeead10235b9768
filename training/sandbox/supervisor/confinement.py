"""How a process gives up its powers for good: landlock, seccomp, resource limits, capabilities.

All of it works without root and inside an ordinary container, where namespaces are usually forbidden; nothing
here starts a helper or needs set-up on the machine. Called in the child, after fork and before untrusted
code:

    confine(...)   -> {layer: "" or why it is missing}

Landlock (kernel.org, userspace-api/landlock) denies every file access outside the folders that are named,
TCP, and signals to processes outside. Seccomp (userspace-api/seccomp_filter) denies every system call that is
not listed in `syscalls.py`: with no clone but of threads there is one process to watch, to limit and to kill.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Sequence

from .syscalls import ALLOWED, AUDIT_ARCH, CONDITIONAL, numbers

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 8, 36, 38
SIGKILL = 9

# Landlock: rights of files, in the order of their bits, and the ABI that brought them.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG, TRUNCATE = 1 << 5, 1 << 8, 1 << 14
RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP_RIGHTS, SCOPES = 0b11, 0b11
OK_ABI = 3
"""From this ABI on (Linux 6.2) truncation is governed too; below it a file outside could be emptied."""

# Classic BPF as seccomp reads it.
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOTTY, ENOSYS = 1, 25, 38
CLONE_THREAD = 0x00010000
IOCTLS = (0x5401, 0x541B, 0x5421, 0x5451)  # TCGETS, FIONREAD, FIONBIO, FIOCLEX
FCNTLS_DENIED = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a way to have a signal sent to anyone


def prctl(option: int, value: int = 0) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _call(number: int, *arguments: object) -> int:
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def landlock_abi() -> int:
    """The landlock ABI of the running kernel; 0 where there is none."""
    try:
        return _call(444, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


def landlock(readable: Sequence[str], writable: str) -> None:
    """Read below `readable`, read and write plain files in `writable`; no other file, TCP port or signal."""
    abi = landlock_abi()
    if abi < OK_ABI:
        raise OSError(0, f"landlock ABI {abi}, need {OK_ABI} (Linux 6.2)")
    handled = RIGHTS_BY_ABI[max(known for known in RIGHTS_BY_ABI if known <= abi)]
    attributes = struct.pack("QQQ", handled, TCP_RIGHTS, SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _call(444, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    files = READ_FILE
    rules = [(path, files | READ_DIR) for path in readable]
    # No folders, links, sockets or fifos: a flat folder is quick to measure and to remove.
    rules.append((writable, READ_FILE | READ_DIR | WRITE_FILE | MAKE_REG | REMOVE_FILE | TRUNCATE))
    rules.append(("/dev/null", READ_FILE | WRITE_FILE))
    rules += [("/dev/zero", files), ("/dev/urandom", files)]
    for path, rights in rules:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # a path that does not exist needs no rule
        if not os.path.isdir(path):
            rights &= ~(READ_DIR | MAKE_REG | REMOVE_FILE)
        _call(
            445, ctypes.c_int(ruleset), ctypes.c_int(1), struct.pack("=Qi", rights, opened), ctypes.c_uint(0)
        )
        os.close(opened)
    _call(446, ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)


def seccomp() -> None:
    """Install the filter, for this process and its children."""
    program = _filter(os.uname().machine, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(22, ctypes.c_ulong(2), header, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _filter(machine: str, pid: int) -> bytes:
    if machine not in ALLOWED:
        raise OSError(0, f"no system call table for {machine}")

    def op(code: int, value: int, then: int = 0, other: int = 0) -> bytes:
        return struct.pack("HBBI", code, then, other, value)

    def argument(index: int, high: bool = False) -> bytes:
        return op(LOAD, 16 + 8 * index + 4 * high)

    def one_of(values: Sequence[int], result: int) -> bytes:
        return b"".join(op(JUMP_EQUAL, value, 0, 1) + op(RETURN, result) for value in values)

    allow, deny = op(RETURN, ALLOW), op(RETURN, ERRNO | EPERM)
    itself = argument(0) + one_of([pid], ALLOW) + deny
    blocks = {
        "clone": argument(0) + op(JUMP_SET, CLONE_THREAD, 0, 1) + allow + deny,
        "clone3": op(RETURN, ERRNO | ENOSYS),  # its flags lie in memory; libc falls back to clone
        "kill": itself,
        "tgkill": itself,
        "prlimit64": argument(2)
        + op(JUMP_EQUAL, 0, 0, 3)
        + argument(2, high=True)
        + op(JUMP_EQUAL, 0, 0, 1)
        + allow
        + deny,
        "ioctl": argument(1) + one_of(IOCTLS, ALLOW) + op(RETURN, ERRNO | ENOTTY),
        "fcntl": argument(1) + one_of(FCNTLS_DENIED, ERRNO | EPERM) + allow,
    }
    code = op(LOAD, 4) + op(JUMP_EQUAL, AUDIT_ARCH[machine], 1, 0) + op(RETURN, KILL) + op(LOAD, 0)
    for name, number in numbers(CONDITIONAL[machine]).items():
        code += op(JUMP_EQUAL, number, 0, len(blocks[name]) // 8) + blocks[name]
    return code + one_of(list(numbers(ALLOWED[machine]).values()), ALLOW) + deny


def drop_user(uid: int) -> None:
    """As root: become `uid`, a user that owns nothing and that no other process has."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Give up root's capabilities, where the process stays root."""
    for capability in range(64):
        if libc.prctl(24, ctypes.c_ulong(capability), 0, 0, 0) != 0:  # PR_CAPBSET_DROP
            break
    number = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
    _call(number, struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6))


def set_limits(limits: dict[str, int]) -> None:
    """`limits` by the names of the resource module, without the RLIMIT_."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def confine(
    layers: Sequence[str], *, limits: dict[str, int], readable: Sequence[str], writable: str, uid: int | None
) -> dict[str, str]:
    """Apply every layer; returns for each of `layers` "", or why it is missing."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    set_limits(limits)
    missing: dict[str, str] = {}
    steps = {
        "user": lambda: _drop(uid),
        "landlock": lambda: landlock(readable, writable),
        "seccomp": seccomp,
    }
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    for layer, step in steps.items():
        if layer in layers:
            try:
                step()
                missing[layer] = ""
            except (OSError, KeyError) as error:
                missing[layer] = str(error) or type(error).__name__
    return missing


def _drop(uid: int | None) -> None:
    if os.geteuid() != 0:
        return  # already an ordinary user
    if uid is not None:
        drop_user(uid)
        prctl(PR_SET_PDEATHSIG, SIGKILL)  # a change of user clears it
        set_limits({"NPROC": 64})
    else:
        drop_capabilities()
