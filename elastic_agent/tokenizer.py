"""Text to ids for Hugging Face models: chat template, markers, and user text that stays text.

The adapter for `transformers`' tokenizers (no torch needed). Law 7, user text is data: the control strings of
the model (`</think>`, `<|im_end|>`, every added token) are broken up inside message contents before the
template is rendered: a separator goes in after their first character, and the rendered prompt is encoded in
pieces split at the separators. The text that the model reads is the same; no control token comes out of it.
Half a control string at the end of a content is broken up as well, since a template may write another content
behind it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from elastic_agent.errors import NoMarkersError, UnknownModelError
from elastic_agent.markers import Markers, MarkerText, resolve_markers

_SEPARATORS = (
    "\ue0f0\ue0f1\ue0f2\ue0f3\ue0f4\ue0f5\ue0f6\ue0f7"  # private use; one that the prompt lacks is taken
)


def _byte_alphabet() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in plain)
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


class HFCodec:
    """A Hugging Face fast tokenizer as a `Codec`.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        model: the model's name, for messages.
        markers: the thinking markers, when they can't be found in the tokenizer.
        template_options: further variables for the chat template (`enable_thinking=True`, say).

    Raises:
        NoMarkersError: the model has no end-of-thinking marker.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        model: str = "this model",
        markers: MarkerText | None = None,
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self._options = dict(template_options or {})
        self._pieces: dict[int, bytes] = {}
        self.markers: Markers = resolve_markers(
            vocabulary=tokenizer.get_vocab(),
            encode=self._encode_piece,
            chat_template=self._template,
            eos_ids=_eos_ids(tokenizer),
            turn_ids=_turn_ids(tokenizer),
            wanted=markers,
            model=model,
            piece=self._piece,
            controls=frozenset(tokenizer.added_tokens_decoder),
        )
        if tokenizer.unk_token_id in {*self.markers.open_ids, *self.markers.close_ids}:
            raise NoMarkersError(f"{model} can't spell its thinking markers: they hold unknown tokens")
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._dropped = {*tokenizer.all_special_ids, *special, *self.markers.eos_ids, *self.markers.turn_ids}
        if len(self.markers.close_ids) == 1:
            self._dropped |= {*self.markers.open_ids, *self.markers.close_ids}

    def encode(self, text: str) -> list[int]:
        """Plain text as ids; control strings in it stay text."""
        separator = self._separator(text)
        return self._encode_split(self._defuse(text, separator), separator)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """A conversation as prompt ids, generation prompt included.

        Raises:
            UnknownModelError: the model has no chat template.
        """
        if self._template is None:
            raise UnknownModelError(
                f"{self.model} has no chat template: pass prompt ids, or use a chat model"
            )
        separator = self._separator("".join(_strings([messages, tools])))
        safe = [cast("dict[str, Any]", self._defuse_all(dict(m), separator)) for m in messages]
        text = self.tokenizer.apply_chat_template(
            safe,
            tools=[self._defuse_all(dict(t), separator) for t in tools] if tools else None,
            tokenize=False,
            add_generation_prompt=True,
            **self._options,
        )
        return self._encode_split(text, separator)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, control tokens left out."""
        dropped, fast = self._dropped, self._fast
        kept = [i for i in ids if i not in dropped]
        if fast is not None:  # its wrapper takes five times as long, at each token of a stream
            return cast("str", fast.decode(kept, skip_special_tokens=False))
        return cast(
            "str", self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    @property
    def _template(self) -> str | None:
        template = getattr(self.tokenizer, "chat_template", None)
        return cast("str | None", template.get("default") if isinstance(template, dict) else template)

    @cached_property
    def _control(self) -> frozenset[str]:
        """Every control string: added tokens, and markers of several tokens."""
        added = set(self.tokenizer.get_added_vocab())
        added |= {self.markers.open_text, self.markers.close_text}
        # Some vocabularies add runs of spaces, which control nothing
        return frozenset(text for text in added if len(text.strip()) > 1)

    @cached_property
    def _begin(self) -> re.Pattern[str]:
        """Matches, without consuming, where a control string begins."""
        return re.compile(
            f"(?={'|'.join(map(re.escape, sorted(self._control)))})" if self._control else "(?!)"
        )

    @cached_property
    def _halves(self) -> frozenset[str]:
        return frozenset(text[:n] for text in self._control for n in range(1, len(text)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._halves), default=0)

    @cached_property
    def _in_text(self) -> list[str]:
        """Markers that are no control tokens."""
        markers = self.markers
        pairs = ((markers.open_text, markers.open_in_text), (markers.close_text, markers.close_in_text))
        return [text for text, is_text in pairs if is_text]

    def _piece(self, token: int) -> bytes:
        """An id's bytes, as they stand behind other text."""
        if token not in self._pieces:
            self._pieces[token] = self._bytes(token)
        return self._pieces[token]

    def _bytes(self, token: int) -> bytes:
        added = self.tokenizer.added_tokens_decoder.get(token)
        if added is not None:
            return str(added.content).encode()
        text = self.tokenizer.convert_ids_to_tokens(token)
        if text is None:
            return b""
        if self._byte_level:
            return bytes(_BYTES[c] for c in text) if all(c in _BYTES for c in text) else text.encode()
        if re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            return bytes.fromhex(text[3:5])
        before = self._encode_piece("a")
        return self._raw([*before, token])[len(self._raw(before)) :].encode()

    def _raw(self, ids: list[int]) -> str:
        return cast(
            "str", self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    @cached_property
    def _byte_level(self) -> bool:
        decoder = None if self._fast is None else self._fast.decoder
        return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    @staticmethod
    def _separator(text: str) -> str:
        candidates = itertools.chain(_SEPARATORS, map(chr, range(0xF0000, 0xF1000)))
        return next(c for c in candidates if c not in text)

    def _defuse(self, text: str, separator: str) -> str:
        starts = {m.start() + 1 for m in self._begin.finditer(text)}
        first = max(0, len(text) - self._longest)
        starts |= {i + 1 for i in range(first, len(text)) if text[i:] in self._halves}
        for (
            marker
        ) in self._in_text:  # cut where the tokenizer cuts, it would be spelled as the model spells it
            begins = [m.start() for m in re.finditer(f"(?={re.escape(marker)})", text)]
            begins += [
                i
                for i in range(max(0, len(text) - len(marker) + 1), len(text))
                if marker.startswith(text[i:])
            ]
            for begin in begins:
                starts |= set(range(begin + 1, min(begin + len(marker), len(text)) + 1))
        cuts = [0, *sorted(starts), len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(cuts)]
        return separator.join(self._checked(piece, separator) for piece in pieces)

    def _checked(self, piece: str, separator: str) -> str:
        """A tokenizer that normalises may read a control string out of look-alikes: those are spelled."""
        if self._normalizes and not self._added.isdisjoint(self._encode_piece(piece)):
            return separator.join(piece)
        return piece

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(i for t, i in self.tokenizer.get_added_vocab().items() if t in self._control)

    @cached_property
    def _normalizes(self) -> bool:
        return self._fast is None or self._fast.normalizer is not None

    def _defuse_all(self, value: Any, separator: str) -> Any:
        """The same for every string inside a message or a tool; names of roles and types stay as they are."""
        if isinstance(value, str):
            return self._defuse(value, separator)
        if isinstance(value, Mapping):
            return {
                self._defuse_all(k, separator): v
                if k in ("role", "type") and isinstance(v, str) and v.isidentifier()
                else self._defuse_all(v, separator)
                for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._defuse_all(v, separator) for v in value]
        return value

    def _encode_split(self, text: str, separator: str) -> list[int]:
        return [i for piece in text.split(separator) if piece for i in self._encode_piece(piece)]

    def _encode_piece(self, text: str) -> list[int]:
        fast = self._fast
        if fast is None or fast.truncation is not None or fast.padding is not None:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        ids: list[int] = fast.encode(text, add_special_tokens=False).ids  # its wrapper takes as long again
        return ids

    @cached_property
    def _fast(self) -> Any:
        """What encodes and decodes inside of the tokenizer; None where that is Python."""
        return getattr(self.tokenizer, "backend_tokenizer", None)


def _strings(value: Any) -> Iterator[str]:
    """Every string in a nested value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def load_codec(
    model: str | Path, *, markers: MarkerText | None = None, name: str | None = None, **template_options: Any
) -> HFCodec:
    """The codec of a model folder or hub id.

    Raises:
        UnknownModelError: there is no tokenizer there.
        NoMarkersError: the model has no end-of-thinking marker.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model))
    except (OSError, ValueError, KeyError) as error:
        raise UnknownModelError(
            f"no tokenizer for {name or model}: give a folder that holds one, a Hugging Face id that can be "
            f"reached, or tokenizer=... ({str(error).splitlines()[0]})"
        ) from error
    return HFCodec(tokenizer, model=name or str(model), markers=markers, template_options=template_options)


def _eos_ids(tokenizer: Any) -> set[int]:
    """Tokens that end a turn: the tokenizer's own, and the well-known ones that its vocabulary has."""
    ids = {tokenizer.eos_token_id} - {None}
    added = tokenizer.get_added_vocab()
    return ids | {
        added[t]
        for t in ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
        if t in added
    }


def _turn_ids(tokenizer: Any) -> set[int]:
    """Tokens that start a turn, where the vocabulary has them."""
    added = tokenizer.get_added_vocab()
    starts = (
        "<|im_start|>",
        "<|start_of_role|>",
        "<start_of_turn>",
        "<seed:bos>",
        "<\uff5cUser\uff5c>",
        "<\uff5cAssistant\uff5c>",
        "<|start_header_id|>",
        "[INST]",
        "<|assistant|>",
    )
    return {added[t] for t in starts if t in added}
