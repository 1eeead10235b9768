"""The tokenizer of a prepared model, and the weights that it starts from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastic_agent.errors import NoMarkersError
from elastic_agent.prompts.chat_template import ChatTemplate
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.model_files import load_tokenizer
from elastic_agent.prompts.tokenizer import HFCodec

from ..grpo.export import load_model
from .base import Base
from .markers import MarkerPlan
from .template import END, START, chatml, thinking_template
from .token_files import rename_tokens


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model's tokenizer with markers and template, and what its new rows begin as.

    Attributes:
        codec: of the tokenizer; reads it as every other part of this project will.
        rows: row of the embedding -> the rows whose mean it begins as.
        end: the token that ends an answer.
    """

    base: Base
    plan: MarkerPlan
    codec: HFCodec
    rows: dict[int, tuple[int, ...]]
    end: int

    @property
    def tokenizer(self) -> Any:
        return self.codec.tokenizer


def prepare_tokenizer(base: Base, plan: MarkerPlan, folder: Path) -> Prepared:
    """Give a base's tokenizer its markers and template, by way of its files in `folder`.

    Raises:
        ConfigError: its chat template can't be extended.
        NoMarkersError: the result is not read as it was meant.
    """
    rows = {row: _pieces(base.tokenizer, text) for text, row in plan.rows.items()}
    _write(base, plan, folder)
    tokenizer = load_tokenizer(folder, name=base.name)
    ours = tokenizer.chat_template is None
    if ours:
        end = END if END in tokenizer.get_vocab() else tokenizer.eos_token
        tokenizer.chat_template = chatml(end, _bos(tokenizer))
        tokenizer.eos_token = end
    tokenizer.chat_template = thinking_template(tokenizer, plan.pair, base.name)
    codec = HFCodec(tokenizer, model=base.name)
    _check(base, plan, codec)
    return Prepared(base, plan, codec, rows, _end(codec))


def starting_model(prepared: Prepared, **options: Any) -> Any:
    """The base's weights, new rows filled in.

    A new token begins as the mean of the pieces that spelled it in the base's vocabulary, in embedding and
    head: it is read and predicted somewhat like its text, and has the size of a trained row.

    Args:
        options: of `from_pretrained`.
    """
    import torch

    model = load_model(prepared.base.where, **options)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [inputs] if outputs is None or outputs.weight is inputs.weight else [inputs, outputs]
    parameters: list[Any] = [module.weight for module in modules]
    parameters += [module.bias for module in modules if getattr(module, "bias", None) is not None]
    with torch.no_grad():
        for parameter in parameters:
            for row, pieces in prepared.rows.items():
                parameter[row] = parameter[list(pieces)].float().mean(dim=0).to(parameter.dtype)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if prepared.end not in ends:  # else a server that reads nothing but this file would not stop
        model.generation_config.eos_token_id = [prepared.end, *ends]
    return model


def _pieces(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _write(base: Base, plan: MarkerPlan, folder: Path) -> None:
    """The tokenizer with its markers, and the configs that say how a folder's tokenizer is read."""
    from tokenizers import AddedToken
    from transformers import GenerationConfig

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base.config.save_pretrained(str(folder))
    with suppress(OSError, ValueError):  # not every model has one that is valid
        GenerationConfig.from_pretrained(base.where).save_pretrained(str(folder))
    tokenizer = load_tokenizer(base.where, name=base.name)  # `base` keeps one that is as it was
    tags = frozenset((START, END))
    for text in plan.rows:
        if text not in plan.renamed:
            tokenizer.add_tokens([AddedToken(text, special=text in tags, normalized=False)])
    tokenizer.save_pretrained(str(folder))
    rename_tokens(folder, {old: new for new, old in plan.renamed.items()}, tags)


def _bos(tokenizer: Any) -> str:
    """The text that begins a conversation, where the tokenizer begins every text with it."""
    begun = tokenizer.encode("x")[:1] == [tokenizer.bos_token_id] != [None]
    return str(tokenizer.bos_token) if begun else ""


def _check(base: Base, plan: MarkerPlan, codec: HFCodec) -> None:
    """That a folder says of itself what was planned, and reads other text as the base does."""
    markers, tokenizer = codec.markers, codec.tokenizer
    wrong = ""
    if (markers.open_text, markers.close_text) != (plan.pair.open, plan.pair.close):
        wrong = f"its markers are read as {markers.open_text} and {markers.close_text}"
    for text, row in plan.rows.items():
        if tokenizer.encode(text, add_special_tokens=False) != [row]:
            wrong = f"{text} is not read as the token {row}"
    for text in ("What is 2 + 2?\n", "  def f(x):\n\treturn x", "caf\u00e9 \u6f22\u5b57"):
        if _pieces(tokenizer, text) != _pieces(base.tokenizer, text):
            wrong = "other text is read otherwise than before"
    if not plan.pair.tokens:
        prompt = codec.encode_chat([{"role": "user", "content": "x"}])
        if markers.opening(prompt) is not Opening.PREFILLED:
            wrong = f"its prompts don't open thinking with {plan.pair.open}"
    if wrong:
        raise NoMarkersError(f"{base.name} could not be given its markers: {wrong}")


def _end(codec: HFCodec) -> int:
    """The token that ends an answer: what the template writes behind one, else the tokenizer's own."""
    _, text = ChatTemplate(codec.tokenizer, {}).turn()
    written: Sequence[int] = codec.tokenizer.encode(text.lstrip(), add_special_tokens=False)
    first = written[0] if written else None
    return first if first in codec.markers.eos_ids else codec.tokenizer.eos_token_id
