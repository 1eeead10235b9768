"""A Hugging Face model in this process: the embedded default, on CPU or GPU.

A `DecoderBackend` over a `BatchDecoder`: what is here loads the model, in a precision that suits the device.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...errors import UnknownModelError
from ...model_location import folder_or_hub_id, hub_or_disk
from ...prompts.tokenizer import load_codec
from ...validation import integer
from ..base import Codec
from ..decoder_backend import DecoderBackend
from .decode import BatchDecoder
from .lora import adapted, add_adapters

_SMALL = 100_000_000  # parameters under which one thread, and float32, are fast enough on a CPU
DTYPES = ("float32", "bfloat16")


class TransformersBackend(DecoderBackend):
    """Runs a `transformers` causal language model in process.

    Attributes:
        module: the model, for work in batches beside the streams.

    Args:
        model: a loaded model, in evaluation mode.
        codec: its tokenizer.
        name: what to call it in prices, curves and logs.
        max_rows: most sequences decoded together; others wait in order.
        threads: CPU threads of the decoder; by default one for a small model, torch's own number otherwise.
    """

    def __init__(
        self, model: Any, codec: Codec, *, name: str, max_rows: int = 64, threads: int | None = None
    ) -> None:
        max_rows = integer("max_rows", max_rows, least=1, of="rows")
        if threads is not None:
            threads = integer("threads", threads, least=1, of="threads")
        elif sum(p.numel() for p in model.parameters()) < _SMALL:
            threads = 1
        super().__init__(
            partial(BatchDecoder, model, max_rows=max_rows),
            codec,
            name=name,
            context_length=int(model.config.max_position_embeddings),
            vocabulary=int(model.config.vocab_size),
            prepare=None if threads is None else partial(torch.set_num_threads, threads),
        )
        self.module = model
        self._threads = threads

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        max_rows: int = 64,
        threads: int | None = None,
        dtype: str | None = None,
        base: str | Path | None = None,
        **codec_options: Any,
    ) -> TransformersBackend:
        """Load a model folder, a hub id, or a folder of low-rank adapters with their tokenizer.

        Args:
            base: where the model lies that the adapters are for; None: where they say.
            dtype: "float32" or "bfloat16". None: the stored precision, and on a CPU float32 instead for small
                models, for float16, and where the CPU has no instructions for bfloat16.

        Raises:
            UnknownModelError: nothing that can be loaded is there.
            ValueError: there is no such dtype, or `base` comes without adapters.
            NoMarkersError: the model has no end-of-thinking marker.
        """
        from transformers import AutoModelForCausalLM

        from .attention import GROUPED

        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype= is one of {', '.join(DTYPES)}, not {dtype!r}")
        name, adapters = name or str(path), adapted(path)
        if base is not None and adapters is None:
            raise ValueError(f"base= is for a folder of adapters, and {name} is none")
        codec = load_codec(path, name=name, **codec_options)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                _folder_or_id(base or adapters) or str(path),
                dtype=dtype or "auto",
                attn_implementation=GROUPED,
            )
        except (OSError, ValueError) as error:
            raise UnknownModelError(f"can't load {name}: {str(error).splitlines()[0]}") from error
        if dtype is None and device == "cpu" and not _fast_in(model.dtype, model.num_parameters()):
            model.float()
        if adapters is not None:
            add_adapters(model, Path(path))
        return cls(model.to(device).eval(), codec, name=name, max_rows=max_rows, threads=threads)


def _folder_or_id(base: str | Path | None) -> str | None:
    """Where to load the base of adapters from."""
    if base is None:
        return None
    where = folder_or_hub_id(str(base), "base=")
    return where if Path(where).is_dir() else hub_or_disk(where)


def _fast_in(dtype: torch.dtype, parameters: int) -> bool:
    """Whether a CPU should compute a model of so many parameters in the precision in which it is stored."""
    return dtype == torch.bfloat16 and parameters >= _SMALL and has_bfloat16()


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16: elsewhere float32 is faster."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
