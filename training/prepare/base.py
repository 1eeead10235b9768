"""The model to start from, looked at before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastic_agent.errors import UnknownModelError
from elastic_agent.model_location import folder_or_hub_id, hub_or_disk
from elastic_agent.prompts.model_files import load_tokenizer

_LARGEST = 1_000_000
"""Some configs say that there is no limit by a number with thirty digits."""


@dataclass(frozen=True, slots=True)
class Base:
    """A causal language model.

    Attributes:
        name: as the user gave it.
        where: a folder or a hub id.
        config: transformers' config.
        tokenizer: as loaded; nothing has been changed.
        rows: rows of its embedding, of which the tokenizer may use fewer.
        context: the most tokens of a sequence.
    """

    name: str
    where: str
    config: Any
    tokenizer: Any
    rows: int
    context: int


def read_base(name: str) -> Base:
    """The base of a name: an embedded model, a folder or a hub id.

    Raises:
        UnknownModelError: nothing is there; or it is no causal language model, is quantized, or has a
            tokenizer without an end of text.
    """
    from transformers import AutoConfig

    where = folder_or_hub_id(name, "--base")
    if not Path(where).is_dir():
        where = hub_or_disk(where)
    try:
        config: Any = AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise UnknownModelError(f"--base {name}: {str(error).splitlines()[0]}") from error
    _check_kind(name, config)
    tokenizer = load_tokenizer(where, name=name)
    if tokenizer.eos_token_id is None:
        raise UnknownModelError(
            f"--base {name}: its tokenizer has no end of text (eos_token), so no answer could end: it is "
            f"that of an encoder, or its tokenizer_config.json is not complete"
        )
    text = config.get_text_config()
    context = int(getattr(text, "max_position_embeddings", None) or _LARGEST)
    return Base(name, where, config, tokenizer, int(text.vocab_size), min(context, _LARGEST))


def _check_kind(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    causal: Mapping[str, Any] = CAUSAL  # a name, or several
    known = {one for names in causal.values() for one in ([names] if isinstance(names, str) else names)}
    given = config.architectures or []
    if getattr(config, "is_encoder_decoder", False) or (given and not known.intersection(given)):
        raise UnknownModelError(
            f"--base {name} is no causal language model but {', '.join(given) or config.model_type}: "
            f"thinking is text that a model writes token by token before it answers"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UnknownModelError(
            f"--base {name} is quantized, and such weights can't be trained: start from those it was made of"
        )
