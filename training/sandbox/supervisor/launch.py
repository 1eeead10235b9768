"""How a supervisor is started on this machine: its command, its environment, what its sample may read."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from functools import cache
from pathlib import Path

BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from elastic_agent.training.sandbox.supervisor.main import main; main()"
)
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache")
ZONES = ("/usr/share/zoneinfo", "/etc/localtime")


def command() -> list[str]:
    """The supervisor's command line, without the site module: .pth files would run code at each start."""
    # Compiled once, the supervisor starts in half the time
    cached = ["-B"] if sys.dont_write_bytecode else []
    return [sys.executable, "-I", "-S", *cached, "-X", "utf8", "-c", BOOT, str(package_root())]


def environment() -> dict[str, str]:
    """The supervisor's environment: where libraries are, and no key, token or proxy of the trainer."""
    ours = {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    if "LD_LIBRARY_PATH" in os.environ:
        ours["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return ours


def sample_user(pid: int) -> int | None:
    """As root, a user id that no other process has while `pid` lives; None if it can't read Python."""
    return 1_900_000_000 + pid if os.geteuid() == 0 and _anyone_can_read_python() else None


@cache
def package_root() -> Path:
    """The folder that holds the package `elastic_agent`."""
    return Path(sys.modules["elastic_agent"].__path__[0]).resolve().parent


@cache
def python_path() -> list[str]:
    """sys.path of a sample: the standard library and installed packages, not the trainer's own folders."""
    paths = sysconfig.get_paths()
    found = [paths["stdlib"], paths["platstdlib"], str(sysconfig.get_config_var("DESTSHARED"))]
    found += [*site.getsitepackages(), paths["purelib"], paths["platlib"]]
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


@cache
def readable() -> list[str]:
    """What a sample may read, besides its own folder."""
    return [*python_path(), *LIBRARIES, *ZONES, str(sysconfig.get_config_var("LIBDIR"))]


@cache
def _anyone_can_read_python() -> bool:
    """Whether a user that owns nothing can still import the standard library and the packages."""
    for path in python_path():
        real = Path(path).resolve()
        if not real.stat().st_mode & 0o004 or any(
            not up.stat().st_mode & 0o001 for up in (real, *real.parents)
        ):
            return False
    return True
