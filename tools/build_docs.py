"""Builds the documentation site: `make docs`.

    python -m tools.build_docs [--folder build]

Pages are gathered in FOLDER/docs: those of docs/, README.md as the front page, CHANGELOG.md, CONTRIBUTING.md,
SECURITY.md and benchmarks/README.md. Written beside them are the reference of the public names (by
mkdocstrings, from their docstrings), of a training config and of the commands. A link to a page goes to that
page; a link to another file of the repository becomes its name. Then Zensical makes FOLDER/site; a
link to a page or a heading that is not there stops it.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "docs/README.md": "index.md",
}
"""Files whose page has another name, or that stand outside docs/."""
PUBLIC = {
    "elastic_agent": "The core",
    "elastic_agent.scheduler": "The scheduler",
    "elastic_agent.integrations.langchain": "LangChain",
    "elastic_agent.training.evaluation": "Evaluation",
}
"""Modules whose `__all__` is the public surface -> title of their page."""
LINK = re.compile(r"(?P<image>!?)\[(?P<label>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$)", re.DOTALL | re.MULTILINE)


def pages() -> dict[str, str]:
    """Every Markdown file that becomes a page, by its path in the repository: the page's path in the site."""
    inside = {str(path.relative_to(ROOT)): str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob("*.md"))}
    return {**inside, **BESIDE}


def rewritten(text: str, source: str, known: Mapping[str, str]) -> str:
    """A page with its links as they are in the site.

    Args:
        source: the page's path in the repository.
        known: see `pages`.
    """
    here = os.path.dirname(known[source])

    def link(found: re.Match[str]) -> str:
        target, _, part = found["target"].partition("#")
        if not target or ":" in target:
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if path in known:
            goal = known[path]
        elif path.startswith("docs/") and (ROOT / path).is_file():
            goal = path.removeprefix("docs/")
        else:
            label = found["label"]
            return label if path in label or label.startswith("`") else f"{label} (`{path}`)"
        to = os.path.relpath(goal, here or ".")
        return f"{found['image']}[{found['label']}]({to}{'#' + part if part else ''})"

    parts = FENCE.split(text)
    return "".join(part if n % 2 else LINK.sub(link, part) for n, part in enumerate(parts))


def stage(folder: Path) -> None:
    """Fill a folder with the pages, the pictures, and the references."""
    shutil.rmtree(folder, ignore_errors=True)
    known = pages()
    for path in sorted(DOCS.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            to = folder / path.relative_to(DOCS)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    for source, page in known.items():
        if source != "docs/README.md":
            _write(folder / page, rewritten((ROOT / source).read_text(encoding="utf-8"), source, known))
    for name, title in PUBLIC.items():
        _write(folder / f"reference/{name}.md", f"# {title}: `{name}`\n\n" + "\n".join(_directives(name)))
    _write(folder / "reference/config.md", _config())
    _write(folder / "reference/commands.md", "\n".join(_commands()))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _directives(module: str) -> Iterator[str]:
    """For each public name, what mkdocstrings replaces by its documentation."""
    for name in sorted(import_module(module).__all__):
        if not name.startswith("__"):
            yield f"::: {module}.{name}\n"


def _config() -> str:
    from elastic_agent.training.config.loading import describe

    return (
        "# Fields of a training config\n\nWhat `elastic-agent train --fields` prints. "
        f"[Train your own E1](../train.md) says how a config is used.\n\n```text\n{describe()}\n```\n"
    )


def _commands() -> Iterator[str]:
    """Each command's own help."""
    from elastic_agent.integrations.commands.main import command_parser, main

    yield "# Commands\n"
    # argparse has no public way to ask a parser for its commands
    for name in next(one.choices or () for one in command_parser()._actions if one.dest == "command"):
        with redirect_stdout(io.StringIO()) as said, suppress(SystemExit):
            main([name, "--help"])
        yield f"## elastic-agent {name}\n\n```text\n{said.getvalue()}```\n"


def build(folder: Path) -> None:
    """Make FOLDER/site of FOLDER/docs.

    Raises:
        SystemExit: Zensical is missing, or found something wrong.
    """
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    made = folder / "zensical.toml"
    made.write_text(config.replace("@ROOT@", str(ROOT)), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(made)]
    if subprocess.run(command, cwd=folder, env={**os.environ, "NO_COLOR": "1"}, check=False).returncode:
        raise SystemExit("the site was not built: see above (Zensical missing? make setup)")


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="(build)")
    folder: Path = parser.parse_args().folder.resolve()
    os.environ["COLUMNS"] = "100"  # of the commands' help
    stage(folder / "docs")
    build(folder)
    print(f"wrote {folder / 'site' / 'index.html'}")


if __name__ == "__main__":
    main()
