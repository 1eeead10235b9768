"""Makes an environment for each client of the gateway's matrix: `make clients`.

Each has its own under .venv-clients, since their requirements exclude each other; those of Node share one
folder. The versions are those of constraints-clients.txt, which pins the clients, and not what they need in
turn: the matrix is of what a user gets who installs them. `--newest` installs the newest of each, and writes
that file anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / ".venv-clients"
LOCK = ROOT / "constraints-clients.txt"
HEADING = """\
# The clients that `make clients` tries, as ENVIRONMENT/PACKAGE==VERSION; written by
# `python tools/setup_clients.py --newest`.
"""


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the matrix.

    Attributes:
        env: the environment's name.
        packages: what a user installs, without versions; the first one's version is shown.
        node: they are packages of npm.
        tries: how often it sends a request that gets a 402; more than once is a rule of its own.
    """

    env: str
    packages: tuple[str, ...]
    node: bool = False
    tries: int = 1

    def installed(self) -> bool:
        """Whether its environment is here, with its packages."""
        if self.node:
            return all((ENVS / self.env / "node_modules" / name).is_dir() for name in self.packages)
        return (ENVS / self.env / ".ready").is_file()


NODE = "node"
CLIENTS: dict[str, Client] = {
    "openai_chat": Client("openai", ("openai",)),
    "openai_responses": Client("openai", ("openai",)),
    "openai_parse": Client("openai", ("openai",)),
    "openai_agents": Client("openai-agents", ("openai-agents",)),
    "pydantic_ai_agent": Client("pydantic-ai", ("pydantic-ai-slim[openai]",)),
    "langchain_chat": Client("langchain", ("langchain-openai",)),
    "litellm_sdk": Client("litellm", ("litellm",)),
    "litellm_anthropic": Client("litellm", ("litellm",)),
    "llama_index_llm": Client("llama-index", ("llama-index-llms-openai-like",)),
    "dspy_lm": Client("dspy", ("dspy",)),
    "smolagents_model": Client("smolagents", ("smolagents[openai]",)),
    "inspect_ai_model": Client("inspect-ai", ("inspect-ai", "openai")),
    "lm_eval_model": Client("lm-eval", ("lm-eval[api]",), tries=2),
    "anthropic_sdk": Client("anthropic", ("anthropic",)),
    "node_openai": Client(NODE, ("openai",), node=True),
    "node_anthropic": Client(NODE, ("@anthropic-ai/sdk",), node=True),
    "node_claude_code": Client(NODE, ("@anthropic-ai/claude-code",), node=True),
    "node_ai_sdk": Client(NODE, ("ai", "@ai-sdk/openai"), node=True),
    "node_ai_compatible": Client(NODE, ("ai", "@ai-sdk/openai-compatible"), node=True),
    "node_ai_anthropic": Client(NODE, ("ai", "@ai-sdk/anthropic"), node=True),
}
"""By the name of its script in tests/integrations/clients/scripts."""


def python_of(env: str) -> Path:
    """The Python of an environment."""
    return ENVS / env / "bin" / "python"


def versions(name: str) -> str:
    """The versions of a client's packages that are installed."""
    client = CLIENTS[name]
    return ", ".join(f"{package} {_version(client, package)}" for package in map(_bare, client.packages))


def _version(client: Client, package: str) -> str:
    if client.node:
        text = (ENVS / client.env / "node_modules" / package / "package.json").read_text()
        return str(json.loads(text)["version"])
    code = f"from importlib.metadata import version; print(version({package!r}))"
    command = [str(python_of(client.env)), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _bare(package: str) -> str:
    """A package's name without its extras."""
    return package.partition("[")[0]


def _pins() -> dict[str, str]:
    """The pinned versions by environment and package, as `openai/openai`."""
    lines = LOCK.read_text(encoding="utf-8").splitlines() if LOCK.exists() else []
    found = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name: version for name, _, version in found}


def install(env: str, packages: tuple[str, ...], node: bool, pins: dict[str, str]) -> bool:
    """Make an environment; False where it can't be had here."""
    pinned = [
        f"{package}{'@' if node else '=='}{pins[f'{env}/{_bare(package)}']}"
        if f"{env}/{_bare(package)}" in pins
        else package
        for package in packages
    ]
    place = ENVS / env
    if node:
        if shutil.which("npm") is None:
            print(f"{env}: no npm here", file=sys.stderr)
            return False
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text('{"private": true}\n')
        return _run(["npm", "install", "--silent", "--no-audit", "--no-fund", *pinned], place)
    ready, said = place / ".ready", "\n".join(pinned)
    if ready.is_file() and ready.read_text() == said:
        return True
    uv = [sys.executable, "-m", "uv"]
    made = _run([*uv, "venv", "--quiet", "--clear", str(place)], ROOT) and _run(
        [*uv, "pip", "install", "--quiet", "--python", str(python_of(env)), *pinned], ROOT
    )
    if made:
        ready.write_text(said)
    return made


def _run(command: list[str], place: Path) -> bool:
    env = {"UV_INDEX_STRATEGY": "unsafe-best-match", **os.environ}
    return subprocess.run(command, cwd=place, env=env, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    pins = {} if "--newest" in arguments else _pins()
    wanted: dict[tuple[str, bool], tuple[str, ...]] = {}
    for client in CLIENTS.values():
        place = (client.env, client.node)
        wanted[place] = tuple(dict.fromkeys((*wanted.get(place, ()), *client.packages)))
    for (env, node), packages in wanted.items():
        if not install(env, packages, node, pins):
            print(f"clients: {env} could not be installed (see above); going on without", file=sys.stderr)
    if "--newest" in arguments:
        lines = {
            f"{client.env}/{_bare(package)}=={_version(client, _bare(package))}"
            for client in CLIENTS.values()
            if client.installed()
            for package in client.packages
        }
        LOCK.write_text(HEADING + "".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
