"""A model's tokenizer, and the tokens that end and start a turn, by the model's files.

Serving, training and evaluation take the ends of text from a codec, and codecs take them from this module. A
tokenizer names one end only, and a base model's differs from the end of a chat's turn (`<|endoftext|>` and
`<|im_end|>`). So generation_config.json, config.json, the chat template and well-known names are read, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UnknownModelError

_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<|return|>", "<|call|>"),
    *("<end_of_turn>", "<turn|>", "<seed:eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
)
_STARTS = (
    *("<|im_start|>", "<|start_of_role|>", "<start_of_turn>", "<seed:bos>", "<|start_header_id|>", "[INST]"),
    *("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<|assistant|>", "<|start|>", "<|turn>"),
)
_SAMPLES = (
    "hi there, what is",
    "  2 apples,\n\n\tthen 1,234 + 5.",
    "don't <think>\nso.</think>",
    "\u6f22\u5b57 caf\u00e9 \U0001f642",
    "def f(x):\n    return x",
)


def load_tokenizer(model: str | Path, *, name: str | None = None) -> Any:
    """The tokenizer of a folder or hub id, which encodes text as its tokenizer.json says.

    transformers builds the tokenizer of a known class from parts of the files. Where config.json is missing
    or names another class, the result may silently differ from what the model was trained with (blanks
    vanish, say). So some sample texts are compared. Where they differ, tokenizer.json is taken as it is.
    Without transformers it always is (`file_tokenizer`).

    Raises:
        UnknownModelError: there is no tokenizer there, or none that reads as its file says.
    """
    if find_spec("transformers") is None:
        return _by_files(model, name)
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
    except (OSError, ValueError, KeyError) as error:
        raise UnknownModelError(
            f"no tokenizer for {name or model}: give a folder that holds one, a Hugging Face id that can be "
            f"reached, or tokenizer=... ({str(error).splitlines()[0]})"
        ) from error
    path = _file(model, "tokenizer.json")
    if path is None or type(tokenizer) is PreTrainedTokenizerFast:  # which is the file, as it is
        return tokenizer
    from tokenizers import Tokenizer

    try:
        file = Tokenizer.from_file(str(path))
    except Exception:  # what tokenizers raises is a bare Exception
        return tokenizer
    if _reads_as(tokenizer, file):
        return tokenizer
    plain: Any = PreTrainedTokenizerFast.from_pretrained(str(model))
    if _reads_as(plain, file):
        return plain
    raise UnknownModelError(
        f"transformers reads text with the tokenizer of {name or model} otherwise than its tokenizer.json "
        f"says: put the model's config.json beside it, or name another folder with tokenizer=..."
    )


def _by_files(model: str | Path, name: str | None) -> Any:
    from .file_tokenizer import FileTokenizer, text_of

    try:
        found = FileTokenizer.read(lambda file: text_of(_file(model, file)), str(model))
    except ValueError as error:
        raise UnknownModelError(f"a file of {name or model}'s tokenizer can't be read: {error}") from error
    if found is None:
        raise UnknownModelError(
            f"no tokenizer.json for {name or model}: give a folder or a Hugging Face id that has one, with "
            f"tokenizer=...; another kind of tokenizer needs transformers: pip install transformers"
        )
    return found


def _reads_as(tokenizer: Any, file: Any) -> bool:
    for text in _SAMPLES:
        ids = file.encode(text, add_special_tokens=False).ids
        if list(tokenizer.encode(text, add_special_tokens=False)) != ids:
            return False
        said = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if said != file.decode(ids, skip_special_tokens=False):
            return False
    return True


def end_ids(tokenizer: Any) -> set[int]:
    """Every token that ends a turn, by the files that a tokenizer was loaded with; the chat template's is the
    codec's to add."""
    added = tokenizer.get_added_vocab()
    found = {tokenizer.eos_token_id, *(added[text] for text in _ENDS if text in added)}
    for file in ("generation_config.json", "config.json"):
        found.update(_ends_in(_json(tokenizer.name_or_path, file)))
    return {i for i in found if i is not None}


def turn_ids(tokenizer: Any) -> set[int]:
    """Tokens that start a turn, where the vocabulary has well-known ones."""
    added = tokenizer.get_added_vocab()
    return {added[text] for text in _STARTS if text in added}


def _ends_in(config: dict[str, Any]) -> Iterator[int]:
    for part in (config, config.get("text_config") or {}):
        named = part.get("eos_token_id")
        for i in named if isinstance(named, list) else [named]:
            if isinstance(i, int):
                yield i


def _json(model: str | Path, file: str) -> dict[str, Any]:
    path = _file(model, file)
    try:
        found = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(model: str | Path, file: str) -> Path | None:
    """A file of a folder or a hub id; None where it has none, or the hub can't be reached."""
    if not str(model):
        return None
    folder = Path(model)
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(str(model), file))
    except (OSError, ValueError, HfHubHTTPError):  # not there, not ours to see, or not to be reached
        return None
