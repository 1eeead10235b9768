"""An estimate as a table of at most 80 columns, and as JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from .estimate import GIB, Estimate

COLUMNS = 80


def render(found: Estimate) -> str:
    """The table, the sum, and what to change first where it is too large."""
    where = "a CPU" if found.gpu is None else f"a GPU of {found.gpu:g} GiB"
    lines = [
        _cut(found.base),
        f"GiB of each of {found.processes} process(es) on {where}, rows of {found.row} tokens",
        "",
        f"{'part':<18}{'sampling':>9}{'learning':>9}  why",
    ]
    lines += [_line(part.name, part.samples, part.learns, part.why) for part in found.parts]
    lines += [_line("together", found.samples, found.learns, ""), ""]
    lines += textwrap.wrap(_verdict(found), COLUMNS, break_on_hyphens=False)
    return "\n".join(line.rstrip() for line in lines)


def as_json(found: Estimate) -> dict[str, Any]:
    """The same numbers, in GiB."""
    return {
        "base": found.base,
        "processes": found.processes,
        "gpu_gib": found.gpu,
        "row_tokens": found.row,
        "parts": {
            part.name: {"sampling": _gib(part.samples), "learning": _gib(part.learns), "why": part.why}
            for part in found.parts
        },
        "sampling": _gib(found.samples),
        "learning": _gib(found.learns),
        "total": _gib(found.total),
        "learning_other_checkpointing": _gib(found.other_way),
        "changes": {name: _gib(size) for name, size in found.changes},
    }


def _verdict(found: Estimate) -> str:
    need = f"A process needs {found.total / GIB:.2f} GiB"
    if found.gpu is None:
        said = f"{need}, beside Python, torch and TRL themselves (about 0.9 GiB)."
    elif found.total > 0.9 * found.gpu * GIB:
        said = f"{need}: too much for {found.gpu:g} GiB, of which CUDA and gaps between tensors take a tenth."
    else:
        said = f"{need} of {found.gpu:g}: it fits, with a tenth for CUDA and gaps between tensors."
    said += f" With device.gradient_checkpointing the other way, learning takes {found.other_way / GIB:.2f}."
    if not found.changes:
        return said
    first = ", ".join(f"{name} (-{size / GIB:.2f})" for name, size in found.changes)
    return f"{said} To need less, change first: {first}."


def _line(name: str, samples: float, learns: float, why: str) -> str:
    line = f"{name:<18}{samples / GIB:>9.2f}{learns / GIB:>9.2f}  {why}"
    return _cut(line)


def _cut(line: str) -> str:
    return line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"


def _gib(size: float) -> float:
    return round(size / GIB, 4)
