"""Build hook: a wheel made from a tree with broken links would lack three of the four parts, silently."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PARTS = ("scheduler", "training", "integrations")


class CheckLinks(BuildHookInterface[Any]):
    """Refuses to build where elastic_agent/{scheduler,training,integrations} are not folders."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        broken = [part for part in PARTS if not (Path(self.root) / "elastic_agent" / part).is_dir()]
        if broken:
            raise RuntimeError(
                f"elastic_agent/{broken[0]} should be a symbolic link but is not: this clone was made "
                "without symlink support; run `git config core.symlinks true && git checkout -- "
                "elastic_agent` (on Windows: enable Developer Mode first, or use WSL)"
            )
