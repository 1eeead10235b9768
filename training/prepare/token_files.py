"""Gives tokens of a saved tokenizer other texts: a reserved token becomes a marker, and keeps its id.

No interface of transformers or tokenizers renames a token, so the files are edited: the list of added tokens
and the vocabulary in tokenizer.json, and what tokenizer_config.json says of the token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def rename_tokens(folder: Path, names: Mapping[str, str], special: frozenset[str] = frozenset()) -> None:
    """Rename tokens of the tokenizer in a folder.

    Args:
        names: the text that a token has -> its new text.
        special: new texts that decoding without special tokens shall leave out.
    """
    for name in FILES:
        path = folder / name
        if path.is_file():
            renamed = _renamed(json.loads(path.read_text(encoding="utf-8")), names, special)
            path.write_text(json.dumps(renamed, ensure_ascii=False, indent=2), encoding="utf-8")


def _renamed(value: Any, names: Mapping[str, str], special: frozenset[str]) -> Any:
    """The same data with the tokens renamed, wherever they stand; in order."""
    if isinstance(value, dict):
        if (new := names.get(str(value.get("content")))) is not None and "special" in value:
            flags = {"special": new in special, "normalized": False, "lstrip": False, "rstrip": False}
            return {**value, "content": new, **flags, "single_word": False}
        return {names.get(key, key): _renamed(one, names, special) for key, one in value.items()}
    if isinstance(value, list):
        # A list of special tokens keeps those that still are; a piece of a Unigram model is [text, score]
        if value and all(isinstance(one, str) for one in value):
            return [
                names.get(one, one) for one in value if names.get(one, one) in special or one not in names
            ]
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float):
            return [names.get(value[0], value[0]), value[1]]
        return [_renamed(one, names, special) for one in value]
    return value
