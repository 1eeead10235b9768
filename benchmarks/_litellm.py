"""Where LiteLLM is: in an environment of its own, `.venv-litellm` (`make litellm`)."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class NoLiteLLMError(RuntimeError):
    """LiteLLM is not on this machine."""


def litellm_python() -> Path:
    """The Python that has LiteLLM: ELASTIC_LITELLM_PYTHON, or that of .venv-litellm.

    Raises:
        NoLiteLLMError: there is none.
    """
    path = Path(os.environ.get("ELASTIC_LITELLM_PYTHON") or ROOT / ".venv-litellm" / "bin" / "python")
    if not path.exists():
        raise NoLiteLLMError("not installed: make litellm")
    return path
