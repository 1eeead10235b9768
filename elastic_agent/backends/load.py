"""A backend by name: what `model=` and `base_url=` mean everywhere in this project.

load_backend("e1-tiny")                                   the embedded model, in process
load_backend("path/to/folder")                            a local model, in process
load_backend("Salesforce/E1-Math-1.5B")                   from the hub, in process
load_backend("Salesforce/E1-Math-1.5B", engine="vllm")    the same on vLLM, in process
load_backend("NAME", base_url="http://host:8000/v1")      a vLLM server
load_backend("owner/NAME", base_url="http://host:8080", engine="llama.cpp")    a llama.cpp server
load_backend("NAME", markers=("<think>", "</think>"))     whose tokenizer doesn't tell what ends its thinking
load_backend("NAME", base_url="http://a/v1,http://b/v1")  several of them (`elastic_agent.backends.replicas`)
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UnknownModelError
from ..model_location import embedded_models, hub_or_disk, model_path
from ..prompts.marker_profiles import marker_text
from .base import Backend

ENGINES = ("transformers", "vllm")
"""What runs a model in process; the first by default."""
SERVERS = ("vllm", "llama.cpp")
"""What serves a model at `base_url`; the first by default."""
_LIBRARIES = r"(torch|transformers|tokenizers|safetensors|huggingface_hub)(\.|$)"
_loaded: dict[tuple[Any, ...], Backend] = {}
_lock = threading.Lock()


def load_backend(
    model: str = "e1-tiny",
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    tokenizer: str | None = None,
    markers: object = None,
    engine: str | None = None,
    **options: Any,
) -> Backend:
    """The backend of a model, made once per process and shared.

    Args:
        model: an embedded model's name, a folder, a hub id, or the name that the server at `base_url` serves.
        base_url: an OpenAI-compatible vLLM server, such as "http://localhost:8000/v1", or several with commas
            between them.
        api_key: the server's key, if it wants one.
        tokenizer: where the served model's tokenizer is, when that is not `model`.
        markers: what begins and ends the model's thinking, where its tokenizer and chat template don't tell:
            a `MarkerText`, (open, close), a dict of the two, or the name of a known pair.
        engine: what runs a model in process, "transformers" (None) or "vllm"; with `base_url` what serves it,
            "vllm" (None) or "llama.cpp".
        options: passed to `TransformersBackend.load`, `VllmEngineBackend.load`, `VllmServerBackend` or
            `LlamaCppServerBackend`.

    Raises:
        UnknownModelError: there is no such model here, or what it needs is not installed.
        NoMarkersError: the model has no end-of-thinking marker.
        InvalidMarkersError: `markers` are none.
    """
    if (named := marker_text(markers)) is not None:
        options["markers"] = named
    known = ENGINES if base_url is None else SERVERS
    engine = known[0] if engine is None else engine
    if engine not in known:
        where = "in process" if base_url is None else "of a server at base_url="
        raise UnknownModelError(f"engine= {where} is one of {', '.join(known)}, not {engine!r}")
    key = (
        model,
        base_url,
        api_key,
        tokenizer,
        engine,
        tuple(sorted((k, repr(v)) for k, v in options.items())),
    )
    with _lock:
        found = _loaded.get(key)
        if found is None or getattr(found, "closed", False):
            found = _loaded[key] = _load(model, base_url, api_key, tokenizer, engine, options)
        return found


def _load(
    model: str,
    base_url: str | None,
    api_key: str | None,
    tokenizer: str | None,
    engine: str,
    options: dict[str, Any],
) -> Backend:
    if base_url is not None:
        server = _server_class(engine)
        options = {"api_key": api_key, "tokenizer": tokenizer, **options}
        url, *more = [part.strip() for part in base_url.split(",")]
        first = server(model, url, **options)
        if not more:
            return first
        from .replicas import Replicas

        options["codec"] = first.codec  # a tokenizer is loaded once, not once a replica
        return Replicas([first, *(server(model, url, **options) for url in more)])
    path = Path(model_path(model)).expanduser()
    if not path.is_dir() and model.startswith((".", "/", "~")):
        raise UnknownModelError(f"there is no folder {model}")
    if not path.is_dir() and "/" not in model:
        raise UnknownModelError(
            f"no model called {model!r}: embedded are {', '.join(embedded_models()) or 'none'}; otherwise "
            f"give a folder, a Hugging Face id (owner/name), or base_url= of a server that has it"
        )
    where = str(path) if path.is_dir() else hub_or_disk(model)
    if engine == "vllm":
        if find_spec("vllm") is None:
            raise UnknownModelError(
                "engine='vllm' needs vLLM in this environment: pip install 'elastic-agent[vllm]'; or start a "
                "server (elastic-agent up) and give its base_url="
            )
        from .vllm.engine import VllmEngineBackend

        options = options if tokenizer is None else {"tokenizer": tokenizer, **options}
        return VllmEngineBackend.load(where, name=model, **options)
    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        raise UnknownModelError(
            f"running a model in process needs {' and '.join(missing)}: pip install 'elastic-agent[local]'"
        )
    with warnings.catch_warnings(), _no_progress_bar() if model in embedded_models() else nullcontext():
        # torch and transformers announce to each other what will change: nothing that a user can act upon
        warnings.filterwarnings("ignore", category=FutureWarning, module=_LIBRARIES)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=_LIBRARIES)
        from .transformers.backend import TransformersBackend

        return TransformersBackend.load(where, name=model, **options)


def _server_class(engine: str) -> Callable[..., Backend]:
    if engine == "llama.cpp":
        from .llama_cpp.server import LlamaCppServerBackend

        return LlamaCppServerBackend
    from .vllm.server import VllmServerBackend

    return VllmServerBackend


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """The embedded models are loaded in a moment: a bar of transformers would only stand in the way."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
