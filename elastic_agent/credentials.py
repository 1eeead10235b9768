"""Keys, passwords and files that only their owner may read.

The command line of a process is there for every user of the machine to read (`ps`), so a secret comes from
the environment or from a file. What is kept on disk (ledgers, keys, run logs) is made with mode 0600.
"""

from __future__ import annotations

import argparse
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEY_VARIABLE = "ELASTIC_UPSTREAM_KEY"
LEDGER_VARIABLE = "ELASTIC_LEDGER"


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where the key of an upstream server is."""
    help = f"holds the server's key; without it the environment's {KEY_VARIABLE} is taken"
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help=help)
    parser.add_argument("--api-key", action=_OnTheCommandLine, help=argparse.SUPPRESS)


def upstream_key(options: argparse.Namespace) -> str | None:
    """The key of an upstream server: from the file that is named, else from the environment, else None.

    Raises:
        ValueError: the file holds none, or the key is no key.
        OSError: the file can't be read.
    """
    if options.api_key_file is None:
        return checked_key(os.environ.get(KEY_VARIABLE) or None, f"the environment's {KEY_VARIABLE}")
    key = Path(options.api_key_file).read_text(encoding="utf-8").strip()
    if not key:
        raise ValueError(f"{options.api_key_file} is empty: it must hold the server's key")
    return checked_key(key, str(options.api_key_file))


def checked_key(key: str | None, where: str) -> str | None:
    """The key itself. A header with a control character in it would be quoted in error messages and logs.

    Raises:
        ValueError: it can't be sent in a header. The message does not show the key.
    """
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(
            f"{where}: a key is printable ASCII without blanks, and this one has a line break or another "
            f"such character in it"
        )
    return key


def ledger_place(given: str | None, default: str = "gateway.db") -> str:
    """Where the ledger is: as given on the command line, else as the environment says, else the default.

    Raises:
        ValueError: a password was given on the command line.
    """
    if given is None:
        return os.environ.get(LEDGER_VARIABLE) or default
    if has_password(given):
        raise ValueError(
            f"every user of this machine can read a password on the command line (ps): give the whole "
            f"address in the environment, as {LEDGER_VARIABLE}, and leave --ledger out"
        )
    return given


def check_address(url: str, option: str) -> None:
    """Refuse an address with a password in it, which was given on the command line.

    Raises:
        ValueError: it has one.
    """
    if has_password(url):
        raise ValueError(
            f"{option}: every user of this machine can read a password on the command line (ps): leave it "
            f"out of the address, and give the key in a file (--api-key-file) or in {KEY_VARIABLE}"
        )


def has_password(url: str) -> bool:
    """Whether an address holds a password, before its host or among its parameters."""
    if "://" not in url:
        return False
    try:
        parts = urlsplit(url)
        named = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
        return parts.password is not None or any("password" in name or name == "passwd" for name in named)
    except ValueError:  # no address: whoever opens it says so
        return "@" in url


def make_private(path: Path) -> None:
    """See to it that nobody but its owner can read a file: made with mode 0600 where it isn't there.

    A file that is there loses what others may do with it. Its group keeps its rights only where it may write,
    since then several users share the file on purpose.

    Raises:
        OSError: it can't be made.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode & ~(stat.S_IRWXO if mode & stat.S_IWGRP else stat.S_IRWXO | stat.S_IRWXG)
        if wanted != mode and path.is_file():
            with suppress(PermissionError):  # another user's, who shares it with us
                path.chmod(wanted)


class _OnTheCommandLine(argparse.Action):
    """Refuses a secret among the arguments, without repeating it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(
            f"every user of this machine can read a key on the command line (ps): put it into the "
            f"environment as {KEY_VARIABLE}, or into a file and give --api-key-file FILE"
        )
