"""A process per episode: an agent in any language, as its command.

    agent:
      command: ["node", "agent.js"]

standard input    the row of data, as one line of JSON
environment       OPENAI_BASE_URL and OPENAI_API_KEY, which the clients of OpenAI read by themselves, and
                  ELASTIC_CAPS ("tokens=4000, seconds=20")
standard output   the reward as its last line: a number, true or false, or a JSON object of rewards; what
                  comes before is the agent's own
exit code         0

Of the trainer's environment the process gets what programs need to run (INHERITED), and what the caller
names. The trainer's secrets (keys of hubs, trackers and providers) stay with the trainer.

The process leads a process group of its own, which is killed at the end of the episode, however the episode
ends: what the agent has started doesn't outlive it, except a program that has left the group (`setsid`).

Input and output are files, no pipes: a process that the agent leaves behind can't keep a file open for our
reading, and an agent that never reads its input isn't waited for.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any

from elastic_agent.budget import Caps

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SYSTEMROOT")
"""Variables of the trainer's environment that the process gets."""
MOST_OUTPUT = 16 << 20
"""Bytes of standard output, and of standard error."""
CHECK_SECONDS = 0.1
"""Between two looks at the size of the output."""
TAIL = 1_500
"""Bytes of standard error in an error's message."""


class CommandError(RuntimeError):
    """The process of an episode has given no reward; the message says why."""


class CommandTimeoutError(CommandError, TimeoutError):
    """The process has not ended in time, and was killed."""


def caps_text(caps: Caps) -> str:
    """Caps as ELASTIC_CAPS has them, and people write them."""
    parts = {"tokens": caps.tokens, "usd": caps.usd, "seconds": caps.seconds}
    return ", ".join(f"{unit}={float(cap):.12g}" for unit, cap in parts.items() if cap is not None)


def check_command(command: Sequence[str]) -> None:
    """Check before a run that there is such a program.

    Raises:
        ValueError: there is none.
    """
    if not command or not all(isinstance(part, str) for part in command):
        raise ValueError(f'a command is a list of texts, like ["node", "agent.js"], not {command!r}')
    if shutil.which(command[0]) is None:
        raise ValueError(f"there is no program {command[0]!r}, neither on PATH nor as a file that can be run")


async def run_command(
    command: Sequence[str],
    row: Mapping[str, Any],
    client: Mapping[str, Any],
    *,
    seconds: float,
    caps: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Run the process of one episode; what its last line says: a finite number, a bool, or a dict.

    Args:
        client: `base_url` and `api_key`.
        seconds: after which the process is killed.
        caps: the text of ELASTIC_CAPS.
        environment: further variables.

    Raises:
        CommandError: the process couldn't be started, failed, wrote too much or no reward.
        CommandTimeoutError: its time is up.
    """
    variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
    variables |= {"OPENAI_BASE_URL": client["base_url"], "OPENAI_API_KEY": client["api_key"]}
    variables |= ({} if caps is None else {"ELASTIC_CAPS": caps}) | dict(environment or {})
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as said:
        given.write(_line(row))
        given.seek(0)
        code = await _run(command, variables, (given, out, said), seconds)
        if code != 0:
            ended = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
            raise CommandError(f"{_name(command)} {ended}{_tail(said)}")
        return _value(command, out, said)


async def _run(
    command: Sequence[str],
    variables: Mapping[str, str],
    files: tuple[IO[bytes], IO[bytes], IO[bytes]],
    seconds: float,
) -> int:
    """The exit code of a process, which is gone by then, and its group with it."""
    given, out, said = files
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=given, stdout=out, stderr=said, env=variables, start_new_session=True
        )
    except OSError as error:
        raise CommandError(f"{_name(command)} can't be started: {error}") from error
    exited = asyncio.ensure_future(process.wait())
    try:
        async with asyncio.timeout(seconds) as limit:
            while not exited.done():
                await asyncio.wait([exited], timeout=CHECK_SECONDS)
                _check_size(command, out, said)
        return exited.result()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise CommandTimeoutError(
            f"{_name(command)} has not ended within {seconds:g} s, and was killed{_tail(said)}"
        ) from error
    finally:
        with suppress(ProcessLookupError, PermissionError):  # the group has no process any more
            os.killpg(process.pid, signal.SIGKILL)
        await exited


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(row), allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise CommandError(f"the row can't be written as JSON for the agent's process: {error}") from error


def _value(command: Sequence[str], out: IO[bytes], said: IO[bytes]) -> Any:
    """What the last line of standard output says."""
    lines = _end(out, MOST_OUTPUT).rstrip().splitlines()
    if not lines:
        raise CommandError(f"{_name(command)} wrote no reward: its standard output is empty{_tail(said)}")
    try:
        value = json.loads(lines[-1], parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, float | int | dict) or (isinstance(value, float) and not math.isfinite(value)):
        raise CommandError(
            f"{_name(command)}: the last line of its standard output is no reward (which is a finite number "
            f"or a JSON object): {lines[-1][:200]!r}"
        )
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no reward")


def _check_size(command: Sequence[str], *files: IO[bytes]) -> None:
    if max(os.fstat(file.fileno()).st_size for file in files) > MOST_OUTPUT:
        raise CommandError(
            f"{_name(command)} wrote more than {MOST_OUTPUT >> 20} MiB of output, and was killed"
        )


def _tail(said: IO[bytes]) -> str:
    text = _end(said, TAIL).strip()
    return f"; its standard error ends:\n{text}" if text else "; it wrote nothing to standard error"


def _end(file: IO[bytes], most: int) -> str:
    """The end of a file, at most so many bytes of it."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), most, max(0, size - most)).decode(errors="replace")


def _name(command: Sequence[str]) -> str:
    return f"the agent's process ({' '.join(command)[:80]})"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
