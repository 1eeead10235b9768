"""The wheel: one import root, real files, the models, and the same from the tree as from the sdist."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("scheduler", "training", "integrations")
SOURCES = ("elastic_agent", *PARTS)
DATA = (".py", ".typed", ".json", ".jsonl", ".yaml", ".jinja", ".safetensors")
DATA += (".md", ".txt", ".html", ".css", ".js")


def build(source: Path, into: Path, what: str) -> Path:
    """Builds with the backend that is installed: nothing is fetched."""
    command = [
        sys.executable,
        "-m",
        "build",
        f"--{what}",
        "--no-isolation",
        "--outdir",
        str(into),
        str(source),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = into.glob("*.whl" if what == "wheel" else "*.tar.gz")
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def test_one_import_root(wheel: Path) -> None:
    """Nothing called scheduler, training or integrations ever lands in a user's site-packages."""
    tops = {name.split("/", 1)[0] for name in contents(wheel)}
    assert tops == {"elastic_agent", wheel.name.rsplit("-", 3)[0] + ".dist-info"}


def test_every_file_of_every_part_is_in_it(wheel: Path) -> None:
    """Real files, byte for byte those of the tree: sources, py.typed, models, data."""
    packed = contents(wheel)
    assert "elastic_agent/py.typed" in packed
    for part in SOURCES:
        inside = "elastic_agent" if part == "elastic_agent" else f"elastic_agent/{part}"
        for path in (ROOT / part).rglob("*"):
            relative = path.relative_to(ROOT / part)
            if part == "elastic_agent" and relative.parts[0] in PARTS:
                continue
            if path.is_file() and path.suffix in DATA:
                assert packed[f"{inside}/{relative.as_posix()}"] == path.read_bytes()


def test_no_links_and_no_rubbish(wheel: Path) -> None:
    """A wheel can't hold links; caches and bytecode stay at home."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            kind = (entry.external_attr >> 16) & 0o170000
            assert kind in (0, 0o100000), f"{entry.filename} is not a plain file"
            assert "__pycache__" not in entry.filename
            assert not entry.filename.endswith((".pyc", ".db"))


def test_the_sdist_makes_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """Who builds from the sdist gets what we built from the tree, and the sdist too holds real files only."""
    with tarfile.open(sdist) as archive:
        assert not [entry.name for entry in archive if entry.issym() or entry.islnk()]
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert contents(build(source, tmp_path / "again", "wheel")) == contents(wheel)


def test_it_imports_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    """Unpacked into a folder, each part imports under its one name, and only under it."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        f"import sys; sys.path = [{str(site)!r}] + [p for p in sys.path if p != {str(ROOT)!r}]\n"
        "import elastic_agent, elastic_agent.scheduler, elastic_agent.training, elastic_agent.integrations\n"
        f"assert elastic_agent.__file__.startswith({str(site)!r}), elastic_agent.__file__\n"
        "from importlib.util import find_spec\n"
        "assert not [name for name in ('scheduler', 'training', 'integrations') if find_spec(name)]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_metadata(wheel: Path) -> None:
    """The extras of the contract, the licence, and a base install without torch."""
    packed = contents(wheel)
    (name,) = [name for name in packed if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(packed[name].decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras >= {"local", "vllm", "train", "redis", "postgres", "gateway", "demo"}
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in base if line.startswith(("torch", "trl", "vllm", "accelerate"))]


def test_a_tree_with_broken_links_is_refused(tmp_path: Path) -> None:
    """Without symlink support the links are text files: the build says so, instead of packing a torso."""
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "elastic_agent"
    package.mkdir()
    (package / "__init__.py").write_bytes((ROOT / "elastic_agent" / "__init__.py").read_bytes())
    for part in PARTS:
        (package / part).write_text(f"../{part}")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode != 0
    assert "git config core.symlinks true" in done.stdout + done.stderr
