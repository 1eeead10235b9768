"""Where a model's files are: in this package, in a folder, in the Hugging Face hub's cache, or on the hub.

Without a network the hub's libraries retry for a minute and print a line for each retry. So this module first
finds out whether the hub can be reached; if not, it takes the files from the cache or refuses at once.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from .errors import UnknownModelError

PATIENCE = 3.0
"""Seconds in which the hub has to accept a connection."""
_REMEMBERED = 30.0
"""Seconds for which the answer holds."""
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
_MODELS = Path(__file__).parent / "models"
_known: dict[str, tuple[float, bool]] = {}


def embedded_models() -> list[str]:
    """Names of the models that ship inside this package."""
    return sorted(p.parent.name for p in _MODELS.glob("*/config.json"))


def model_path(model: str) -> str:
    """Where a model's files are: the package's own folder for an embedded one, else the name unchanged."""
    return str(_MODELS / model) if model in embedded_models() else model


def folder_or_hub_id(name: str, option: str) -> str:
    """Where the model of a name is: its folder, if it has one here, else the name as an id of the hub.

    Args:
        option: what the name was given as, for the error.

    Raises:
        UnknownModelError: a folder without a model, or a name that can't be an id of the hub.
    """
    path = Path(model_path(name)).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UnknownModelError(f"{option}: {path} holds no model (no config.json)")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UnknownModelError(
            f"{option}: no model {name!r}: embedded are {', '.join(embedded_models()) or 'none'}; otherwise "
            f"give a folder or a Hugging Face id (owner/name)"
        )
    return name


def hub_or_disk(model: str) -> str:
    """What to load a hub model from: its id, or its folder in the hub's cache when the hub can't be reached.

    Raises:
        UnknownModelError: the hub can't be reached and the model is not in its cache.
    """
    if reachable():
        return model
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(model, name) for name in _FILES]
    except HFValidationError as error:
        raise UnknownModelError(f"{model!r} is no Hugging Face id (owner/name): {error}") from error
    folder = next((Path(path).parent for path in found if isinstance(path, str)), None)
    if folder is not None:
        return str(folder)
    raise UnknownModelError(
        f"{model!r} is not on this disk, and the Hugging Face hub ({_endpoint()}) can't be reached: give a "
        f"folder that holds it"
    )


def reachable() -> bool:
    """Whether the hub takes connections; asked at most every half minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    where = urlsplit(_endpoint())
    if where.scheme in getproxies():  # the proxy knows
        return True
    host, port = where.hostname or "", where.port or (80 if where.scheme == "http" else 443)
    key = f"{host}:{port}"
    asked, answer = _known.get(key, (-_REMEMBERED, False))
    if time.monotonic() - asked >= _REMEMBERED:
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
            answer = True
        except OSError:
            answer = False
        _known[key] = time.monotonic(), answer
    return answer


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
