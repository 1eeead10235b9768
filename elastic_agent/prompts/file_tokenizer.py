"""A tokenizer by its files alone: tokenizer.json, tokenizer_config.json and the chat template.

For installs without transformers. It has what `HFCodec` uses of a `PreTrainedTokenizerBase`, under the same
names; tests compare the two. A model without a tokenizer.json (a bare SentencePiece file, say) needs
transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
Reader = Callable[[str], str | None]
"""The text of a model's file by its name; None where the model has no such file."""


class FileTokenizer:
    """See the module.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        config: tokenizer_config.json.
        chat_template: its text; None where the model has none.
        name_or_path: where the files are.
    """

    def __init__(
        self, tokenizer: Any, config: Mapping[str, Any], chat_template: str | None, name_or_path: str
    ) -> None:
        self.backend_tokenizer = tokenizer
        self.chat_template = chat_template
        self.name_or_path = name_or_path
        self._named = {name: _content(config[name]) for name in _NAMED if config.get(name) is not None}
        further = (config.get("additional_special_tokens"), config.get("extra_special_tokens"))
        self._further = [_content(one) for part in further if isinstance(part, list) for one in part]

    @classmethod
    def read(cls, file: Reader, name_or_path: str) -> FileTokenizer | None:
        """The tokenizer of a model's files; None where it has no tokenizer.json that can be read.

        Raises:
            ValueError: a file that is no JSON.
        """
        from tokenizers import Tokenizer

        text = file("tokenizer.json")
        if text is None:
            return None
        try:
            tokenizer: Any = Tokenizer.from_str(text)
        except Exception:  # what tokenizers raises is a bare Exception
            return None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        named = json.loads(file("special_tokens_map.json") or "{}")
        config = {**named, **json.loads(file("tokenizer_config.json") or "{}")}
        template = file("chat_template.jinja") or _template(config.get("chat_template"))
        return cls(tokenizer, config, template, name_or_path)

    # What text is

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """`clean_up_tokenization_spaces` is refused: it changes what a model wrote."""
        assert not clean_up_tokenization_spaces
        text: str = self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def convert_ids_to_tokens(self, token: int) -> str | None:
        found: str | None = self.backend_tokenizer.id_to_token(token)
        return found

    # The vocabulary

    def get_vocab(self) -> dict[str, int]:
        """Added tokens included."""
        found: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return found

    @cached_property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Added tokens by id, each with `content` and `special`."""
        found: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return found

    def get_added_vocab(self) -> dict[str, int]:
        """Ids of added tokens by their text."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    @property
    def eos_token_id(self) -> int | None:
        """The end of text."""
        return self._id("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        """What stands for text that the vocabulary lacks."""
        return self._id("unk_token")

    @cached_property
    def all_special_ids(self) -> list[int]:
        """Ids of the tokens that the configuration names."""
        ids = (self.backend_tokenizer.token_to_id(text) for text in (*self._named.values(), *self._further))
        return [i for i in ids if i is not None]

    def _id(self, name: str) -> int | None:
        found: int | None = self.backend_tokenizer.token_to_id(self._named.get(name, ""))
        return found

    # The chat template

    def apply_chat_template(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> str:
        """A conversation as text; `tokenize` is refused, since ids are the codec's."""
        assert not tokenize
        further = {"additional_special_tokens": self._further} if self._further else {}
        variables = {**self._named, **further, "documents": None, **options}
        text: str = self._compiled.render(
            messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )
        return text

    @cached_property
    def _compiled(self) -> Any:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
        return environment.from_string(self.chat_template or "")


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; rendered, it is what stands in it."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _content(token: Any) -> str:
    """A token's text, which files also write as an object."""
    return str(token["content"] if isinstance(token, Mapping) else token)


def _template(found: Any) -> str | None:
    """The template of a configuration: one, or one of several by name."""
    if isinstance(found, list):
        named = {one["name"]: one["template"] for one in found}
        found = named.get("default")
    return found if isinstance(found, str) else None


def text_of(path: Path | None) -> str | None:
    """A file's text; None where there is none."""
    return None if path is None else path.read_text(encoding="utf-8")
