"""The supervisor: the process between the trainer and a sample, which forks, confines, watches and ends it.

The trainer has threads, so it must not fork. The supervisor has one thread, holds no secret, and never runs a
line of the sample. It reads frames from fd 0 (the job, then one frame a test) and answers each test on fd 1.

Every test gets a fresh child, so tests can't see each other. The first limit that is passed ends the child:
the kernel limits CPU, memory and file size; the supervisor looks at wall time, output, threads and disk
twenty times a second. Expected outputs never reach the supervisor, because the trainer compares. A program of
assertions does reach it, after the sample was forked, and runs in a child of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import time
from collections.abc import Mapping
from typing import Any, Never

from . import confinement, sample
from .child import Child
from .messages import Closed, decode, read_frame, write_frame

TICK = 0.05
STDERR_KEPT = 2000


def run_test(job: Mapping[str, Any], test: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Run one test in a fresh folder; returns what the sample printed or returned, and how it ended."""
    folder = os.path.join(job["folder"], str(number))
    os.mkdir(folder, 0o700)
    if job["uid"] is not None:
        os.chown(folder, job["uid"], job["uid"])
    opened: list[int] = []

    def pipe() -> tuple[int, int]:
        ends = os.pipe()
        opened.extend(ends)
        return ends

    children: list[Child] = []
    stdin = os.memfd_create("stdin")
    opened.append(stdin)
    _write_all(stdin, str(test.get("stdin", "")).encode("utf-8", "surrogatepass"))
    (stdout, to_stdout), (stderr, to_stderr), (result, to_result) = pipe(), pipe(), pipe()
    code = job["code"]
    try:
        plain = [stdin, to_stdout, to_stderr]
        if test["kind"] == "assert":
            (requests, to_requests), (answers, to_answers) = pipe(), pipe()
            children.append(
                Child(lambda: sample.serve(code, 3, 4), [*plain, requests, to_answers], job, folder)
            )
            program = read_frame(0)  # only now: the sample has been forked without it
            children.append(
                Child(
                    lambda: sample.test(program, test["entry_point"], 3, 4, 5),
                    [*plain, to_requests, answers, to_result],
                    job,
                    folder,
                )
            )
            for fd in (requests, to_requests, answers, to_answers):
                os.close(fd)
                opened.remove(fd)
        elif test["kind"] == "call":
            name, arguments = test["function"], test["arguments"]
            children.append(
                Child(
                    lambda: sample.call_function(code, name, decode(arguments), 3),
                    [*plain, to_result],
                    job,
                    folder,
                )
            )
        else:
            children.append(Child(lambda: sample.run_program(code), plain, job, folder))
        for fd in (to_stdout, to_stderr, to_result):
            os.close(fd)
            opened.remove(fd)
        return watch(children, {"stdout": stdout, "stderr": stderr, "result": result}, job, folder)
    finally:
        for child in list(Child.alive):
            child.kill()
        sweep(job)
        for fd in opened:
            os.close(fd)
        _remove_flat(folder)


def watch(
    children: list[Child], pipes: dict[str, int], job: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """Read the children's output until the last one ends (the tester, if there are two) or passes a limit."""
    limits, texts = job["limits"], {name: bytearray() for name in pipes}
    names = {fd: name for name, fd in pipes.items()}
    last, start, stopped = children[-1], time.monotonic(), ""
    unconfined = next((child.unconfined for child in children if child.unconfined), "")
    poller = select.poll()
    for fd in names:
        os.set_blocking(fd, False)
        poller.register(fd, select.POLLIN)
    ended = os.pidfd_open(last.pid)
    poller.register(ended, select.POLLIN)
    looked = start
    try:
        while not stopped and not last.over():
            for fd, _ in poller.poll(TICK * 1000):
                if fd in names and not _drain(fd, texts[names[fd]], names[fd], limits["output"]):
                    poller.unregister(fd)
            now = time.monotonic()
            if max(map(len, texts.values())) > limits["output"]:
                stopped = "output limit"
            elif now - start > limits["wall"]:
                stopped = "time limit"
            elif now - looked > TICK:
                looked = now
                if max(child.threads() for child in children) > limits["threads"]:
                    stopped = "thread limit"
                elif _disk_used(folder) + _unnamed([child.pid for child in children]) > limits["disk"]:
                    stopped = "disk limit"
    finally:
        os.close(ended)
    for child in reversed(children):
        child.kill()
    sweep(job)
    for fd, name in names.items():
        _drain(fd, texts[name], name, limits["output"])
    if max(map(len, texts.values())) > limits["output"]:
        stopped = "output limit"
    cpu = max(child.waited[1] if child.waited else 0.0 for child in children)
    status = last.waited[0] if last.waited else 0
    if not stopped and (cpu >= limits["cpu"] or (status == signal.SIGKILL and cpu > 0.8 * limits["cpu"])):
        stopped = "cpu limit"  # wait4 reports a little less than the kernel counted for the limit
    return {
        "unconfined": unconfined,
        "stopped": stopped,
        "exit": os.waitstatus_to_exitcode(status),
        "stdout": texts["stdout"].decode("utf-8", "replace"),
        "stderr": texts["stderr"].decode("utf-8", "replace"),
        "result": texts["result"][8:].decode("utf-8", "replace"),
        "cpu": cpu,
        "wall": time.monotonic() - start,
    }


def _drain(fd: int, text: bytearray, name: str, limit: int) -> bool:
    """Read what a pipe holds, at most a little past the limit; False at the end of the pipe."""
    while len(text) <= limit:
        try:
            part = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if not part:
            return False
        text += part
        if name == "stderr":
            del text[:-STDERR_KEPT]  # the end of a traceback says what happened
            return True
    return True


def sweep(job: Mapping[str, Any]) -> None:
    """Kill the processes that a child left behind. Under seccomp a sample can't start any."""
    while "seccomp" not in job["layers"]:
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as file:
                        parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
                except OSError:
                    continue
        family = {os.getpid()}
        while grown := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= grown
        family.discard(os.getpid())
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0):
                pass
        except ChildProcessError:
            if not family:
                return


def _disk_used(folder: str) -> int:
    """Bytes on disk of a flat folder; a file counts 4 KiB at least, so empty files are limited too."""
    used = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                used += max(4096, entry.stat(follow_symlinks=False).st_blocks * 512)
    except OSError:
        pass  # the folder changes while it is read
    return used


def _unnamed(processes: list[int]) -> int:
    """Bytes on disk of unlinked files that processes still hold, open or mapped."""
    held: dict[tuple[int, int], int] = {}
    for pid in processes:
        with contextlib.suppress(OSError):  # the process may end meanwhile
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found = os.stat(f"/proc/{pid}/fd/{name}")
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        held[found.st_dev, found.st_ino] = found.st_blocks * 512
        mapped: dict[tuple[int, int], int] = {}
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as file:
            for line in file:
                if not line.endswith("(deleted)\n"):
                    continue
                span, _, _, device, inode, *_ = line.split()
                begin, end = (int(part, 16) for part in span.split("-"))
                major, minor = (int(part, 16) for part in device.split(":"))
                key = os.makedev(major, minor), int(inode)
                mapped[key] = mapped.get(key, 0) + end - begin
        for key, size in mapped.items():
            held.setdefault(key, size)
    return sum(held.values())


def _remove_flat(folder: str) -> None:
    """Remove a folder of plain files, as landlock allows; the trainer removes any other tree."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                os.unlink(entry.path)
        os.rmdir(folder)
    except OSError:
        pass


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)


def _terminated(_signal: int, _frame: Any) -> Never:
    raise SystemExit  # unwinds through run_test, which kills and reaps


def probe(job: dict[str, Any]) -> dict[str, str]:
    """Layer -> "" where this machine has it, else why not; each is tried in a child."""
    folder, found = job["folder"], {}
    null = os.open(os.devnull, os.O_RDWR)
    for layer in job["layers"]:
        child = Child(
            lambda: None, [null, null, null], {**job, "layers": [layer], "required": [layer]}, folder
        )
        child.kill()
        found[layer] = child.unconfined
    return found


def main() -> None:
    """Answer frames until the trainer hangs up."""
    signal.signal(signal.SIGTERM, _terminated)
    # If the trainer is killed, the supervisor ends too
    confinement.prctl(confinement.PR_SET_PDEATHSIG, signal.SIGTERM)
    confinement.prctl(confinement.PR_SET_CHILD_SUBREAPER, 1)
    job = read_frame(0)
    try:
        if job.get("probe"):
            write_frame(1, probe(job))
            return
        number = 0
        while True:
            write_frame(1, run_test(job, read_frame(0), number))
            number += 1
    except Closed:
        return
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(job["folder"])
