"""Fills the virtual environment that runs this script: `make setup`, after `python -m venv .venv`.

Everything is installed at the versions in constraints.txt, by uv (seconds) or, where uv is not to be had, by
pip (minutes). Safe to interrupt: running it again goes on from what is there.

PyTorch is the reason for the detour in `install_torch`: what the package index calls `torch` on Linux brings
gigabytes of CUDA. Without an NVIDIA GPU the CPU build is taken instead: from the folder of wheels that pip is
told to look in, else from PyTorch's own index, else (with a word of warning) the plain one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = "demo,train,redis,postgres,telemetry,gateway"
OPTIONAL = "gym"
"""Tried, and done without where it can't be built: reasoning-gym needs a C compiler."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
UV = [sys.executable, "-m", "uv", "pip"]
# uv reads neither pip's variables nor its configuration file.
HANDED_ON = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "cert": "SSL_CERT_FILE",
}


def pip_settings() -> dict[str, str]:
    """What pip is configured to use here, from its files and its environment; the environment wins."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False)
    settings = {}
    for (
        line
    ) in listed.stdout.splitlines():  # global.index-url='https://...', then :env:.index-url='https://...'
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    return settings


def environment(settings: dict[str, str]) -> dict[str, str]:
    # As pip does it: the best version of all indexes.
    env = {"UV_INDEX_STRATEGY": "unsafe-best-match", **os.environ}
    for setting, variable in HANDED_ON.items():
        if setting in settings and variable not in env:
            env[variable] = settings[setting]
    return env


def run(command: list[str], env: dict[str, str]) -> bool:
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0


def pinned(name: str, constraints: Path = CONSTRAINTS) -> str:
    lines = constraints.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def have_uv(env: dict[str, str]) -> bool:
    run([*PIP, "install", "-qq", pinned("uv")], env)
    return subprocess.run([*UV, "list", "--quiet"], env=env, capture_output=True, check=False).returncode == 0


def has_nvidia_gpu() -> bool:
    found = shutil.which("nvidia-smi")
    return (
        found is not None and subprocess.run([found, "-L"], capture_output=True, check=False).returncode == 0
    )


def install_torch(env: dict[str, str], constraints: Path = CONSTRAINTS) -> None:
    """The CPU build, where it is one of several; elsewhere the plain requirement does the right thing."""
    if not sys.platform.startswith("linux") or has_nvidia_gpu():
        return
    cpu_build = f"{pinned('torch', constraints)}+cpu"
    try:
        if version("torch") == cpu_build.removeprefix("torch=="):
            return
    except PackageNotFoundError:
        pass
    # pip, because only pip does everything that its own configuration says. Its dependencies come later.
    take = [*PIP, "install", "--quiet", "--no-deps"]
    local = subprocess.run([*take, "--no-index", cpu_build], cwd=ROOT, capture_output=True, check=False)
    if local.returncode == 0:
        return
    if not run([*take, "--retries", "1", "--timeout", "20", "--index-url", CPU_INDEX, cpu_build], env):
        print("setup: PyTorch's CPU build can't be reached; taking the full one (GBs)", file=sys.stderr)


def install_optional(tool: list[str], env: dict[str, str]) -> int:
    """The extra that a machine may be unable to build; what needs it says so."""
    wanted = PROJECT["project"]["optional-dependencies"][OPTIONAL]
    if not run([*tool, "install", "--quiet", "-c", str(CONSTRAINTS), *wanted], env):
        print(f"setup: going on without the extra [{OPTIONAL}] (see above)", file=sys.stderr)
    return 0


def main() -> int:
    env = environment(pip_settings())
    tool = UV if have_uv(env) else PIP
    install_torch(env)
    # The build backend goes first, so that the package itself is installed without a second environment.
    backend = [*tool, "install", "--quiet", "-c", str(CONSTRAINTS), *PROJECT["build-system"]["requires"]]
    everything = [*tool, "install", "--quiet", "-c", str(CONSTRAINTS), "--no-build-isolation"]
    groups = PROJECT["dependency-groups"]
    everything += ["-e", f".[{EXTRAS}]", *groups["dev"], *groups["docs"]]
    if run(backend, env) and run(everything, env):
        return install_optional(tool, env)
    if tool is UV:
        print("setup: uv could not install everything; trying again with pip", file=sys.stderr)
        swap = len(UV)
        if run([*PIP, *backend[swap:]], env) and run([*PIP, *everything[swap:]], env):
            return install_optional(PIP, env)
    print("setup: could not install everything (see above); `make setup` goes on from here", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
