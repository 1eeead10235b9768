"""Text to ids for Hugging Face models: chat template, markers, and user text that stays text.

The adapter for `transformers`' tokenizers (no torch needed). Law 7, user text is data:

1. The model's control strings (`</think>`, `<|im_end|>`, every added token) are broken up inside message
   contents before the template is rendered: a separator is inserted after their first character, and the
   rendered prompt is encoded in pieces split at the separators. The model reads the same text, without
   control tokens.
2. The beginning of a control string at the end of a content is broken up as well, since a template may write
   another content behind it.
3. Where a text could be completed to a control string in another way (`control_strings`), the prompt's
   control tokens are counted and compared with those of the same conversation with neutral texts. If the
   counts differ, such texts are spelled letter by letter. If they still differ, the prompt is refused.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from ..errors import ControlTokenError, NoMarkersError, UnknownModelError
from ..tool_calls.formats import ToolFormat, tool_format
from .chat_template import ChatTemplate
from .control_strings import WINDOW, ControlStrings
from .conversation_texts import mapped, texts
from .marker_profiles import MarkerText, known_markers
from .marker_resolution import resolve_markers
from .markers import Markers, Opening
from .model_files import end_ids, load_tokenizer, turn_ids
from .token_bytes import TokenBytes

_SEPARATORS = (
    "\ue0f0\ue0f1\ue0f2\ue0f3\ue0f4\ue0f5\ue0f6\ue0f7"  # private use; one that the prompt lacks is taken
)
_TAG = re.compile(
    r"[<\[\u25c1](?![/|])[^<>\[\]\s]*(?:think|thought|reason)[^<>\[\]\s]*[>\]\u25b7]", re.IGNORECASE
)


_DROPPED = 64
"""Bytes of text for each token, where the tokenizer drops blanks or rewrites characters."""


class HFCodec:
    """A Hugging Face fast tokenizer as a `Codec`.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`; the ends of text that its folder names count, too.
        model: the model's name, for messages.
        markers: the thinking markers, when they can't be found in the tokenizer.
        template_options: further variables for the chat template. A template that asks for `enable_thinking`
            or `thinking` gets True unless they are given.

    Raises:
        NoMarkersError: the model has no end-of-thinking marker, or its template begins an answer with a start
            marker that is another than the model's.
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
        self._template = ChatTemplate(tokenizer, template_options or {})
        begin, end = self._template.turn()
        controls = tokenizer.added_tokens_decoder
        self.markers: Markers = resolve_markers(
            vocabulary=tokenizer.get_vocab(),
            encode=self._encode_piece,
            chat_template=self._template.text,
            eos_ids={tokenizer.eos_token_id} - {None},
            turn_ids=turn_ids(tokenizer) | self._first_control(begin),
            wanted=markers,
            model=model,
            piece=TokenBytes(tokenizer, self._encode_piece),
            controls=frozenset(controls),
        )
        ends = end_ids(tokenizer) | self._first_control(end.lstrip(), at_once=True)
        ends -= {*self.markers.open_ids, *self.markers.close_ids}  # gpt-oss ends each message alike
        self.markers = replace(self.markers, eos_ids=self.markers.eos_ids | ends)
        if tokenizer.unk_token_id in {*self.markers.open_ids, *self.markers.close_ids}:
            raise NoMarkersError(f"{model} can't spell its thinking markers: they hold unknown tokens")
        self._begin = begin
        if markers is None:
            self.check_opening()
        special = {i for i, token in controls.items() if token.special}
        self._dropped = {*tokenizer.all_special_ids, *special, *self.markers.eos_ids, *self.markers.turn_ids}
        for marker in (self.markers.open_ids, self.markers.close_ids):  # words in them are words elsewhere
            self._dropped |= {i for i in marker if i in controls}

    @cached_property
    def bytes_per_token(self) -> int:
        """See `Codec`. The longest token, or more, for a tokenizer that drops or rewrites characters."""
        return max(_DROPPED, *(len(token.encode()) for token in self.tokenizer.get_vocab()))

    def encode(self, text: str) -> list[int]:
        """Plain text as ids; control strings in it stay text."""
        separator = self._separator(text)
        return self._encode_split(self._defuse(separator, text), separator)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """A conversation as prompt ids, generation prompt included.

        Args:
            messages: with role and content.
            tools: as the template takes them.
            options: variables of the template for this prompt, over the codec's own.

        Raises:
            UnknownModelError: the model has no chat template.
            UnsupportedError: an option that is none of the template's.
            ControlTokenError: the template makes a control token out of what was sent.
        """
        if self._template.text is None:
            raise UnknownModelError(
                f"{self.model} has no chat template: pass prompt ids, or use a chat model"
            )
        for name in options or ():
            self._template.check_option(name)
        sent = [*messages], [*(tools or ())], dict(options or {})
        separator = self._separator("".join(texts(sent)))
        said: dict[str, None] = {}  # what its sender chose, in order

        def defuse(text: str) -> str:
            said[text] = None
            return self._defuse(separator, text)

        ids = self._rendered(sent, defuse, separator)
        risky = [text for text in said if self._control.risky(text)]
        if not risky:
            return ids
        wanted = self._controls(self._rendered(sent, self._control.neutral, separator))
        if self._controls(ids) == wanted:
            return ids
        ids = self._rendered(sent, partial(self._control.broken, separator=separator), separator)
        if self._controls(ids) == wanted:
            return ids
        shown = ", ".join(repr(text[:40]) for text in risky[:3])
        raise ControlTokenError(
            f"the chat template of {self.model} makes a control token out of text that was sent ({shown}): "
            f"rename the role, the tool, its properties or the option, or write the text otherwise"
        )

    def decode(self, ids: Sequence[int], *, tool_tags: bool = False) -> str:
        """Ids as text, control tokens left out; with `tool_tags` but for those of `tool_format`."""
        dropped, fast = self._dropped_by_tools if tool_tags else self._dropped, self._fast
        kept = [i for i in ids if i not in dropped]
        if fast is not None:  # its wrapper takes five times as long, at each token of a stream
            return cast("str", fast.decode(kept, skip_special_tokens=False))
        return cast(
            "str", self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls, by its chat template."""
        return tool_format(self._template.text)

    @cached_property
    def tool_ids(self) -> frozenset[int]:
        """Tokens that are, by themselves, the start of a tool call."""
        added, format = self.tokenizer.get_added_vocab(), self.tool_format
        return frozenset(added[tag] for tag in format.starts if format.in_thinking and tag in added)

    @cached_property
    def _dropped_by_tools(self) -> set[int]:
        """The tokens that decoding drops from an answer that may hold tool calls."""
        added = self.tokenizer.get_added_vocab()
        tags = {added[tag] for tag in self.tool_format.tags if tag in added}
        return self._dropped - (tags - self.markers.eos_ids)

    # The template

    def _rendered(self, sent: Any, change: Callable[[str], str], separator: str) -> list[int]:
        """A prompt whose texts have been changed; its pieces between separators are encoded apart."""
        messages, tools = (mapped(part, change, self._template.roles) for part in sent[:2])
        options = {name: mapped(value, change, self._template.roles) for name, value in sent[2].items()}
        return self._encode_split(self._template.render(messages, tools, options), separator)

    def _first_control(self, text: str, *, at_once: bool = False) -> set[int]:
        """The first control token of a text, or the one that it begins with; a thinking marker is none."""
        for i in self._encode_piece(text):
            token = self.tokenizer.added_tokens_decoder.get(i)
            if token is not None and not _TAG.fullmatch(str(token.content).replace("/", "")):
                return {i}
            if at_once:
                break
        return set()

    def check_opening(self) -> None:
        """Refuse a template that begins an answer with a start marker that isn't the model's.

        Raises:
            NoMarkersError: the template does. Thinking would pass for a solution, without a budget.
        """
        begin = self._begin
        tag = _TAG.search(begin)
        if tag is None or not self.markers.open_ids:
            return
        if self.markers.opening(self._encode_piece(begin)) is Opening.SELF:
            raise NoMarkersError(
                f"the chat template of {self.model} begins an answer with {tag[0]}, and its thinking is "
                f"known to begin with {self.markers.open_text!r}: say what begins and ends it, with "
                f"markers=MarkerText(open, close) or --open and --close. Known: {known_markers()}"
            )

    # Control strings

    @cached_property
    def _control(self) -> ControlStrings:
        markers = self.markers
        pairs = ((markers.open_text, markers.open_in_text), (markers.close_text, markers.close_in_text))
        return ControlStrings(
            self.tokenizer.get_added_vocab(),
            [text for text, is_text in pairs if is_text],
            self._fast.normalizer.normalize_str if self._normalizes and self._fast is not None else None,
        )

    def _controls(self, ids: Sequence[int]) -> Counter[object]:
        """How often each control token, and each marker that is text, occurs in a prompt."""
        found: Counter[object] = Counter(i for i in ids if i in self._added)
        if self._told_apart:
            found.update(filter(None, (self.markers.in_text(ids, end) for end in range(1, len(ids) + 1))))
        return found

    @cached_property
    def _told_apart(self) -> bool:
        """Whether markers that are text can be told from user text: the tokenizer itself spells none of them
        letter by letter, as user text is spelled."""
        spelled = [self._encode_piece(text) != self._spelled(text) for text in self._control.in_text]
        return bool(spelled) and all(spelled)

    def _spelled(self, text: str) -> list[int]:
        return [i for letter in text for i in self._encode_piece(letter)]

    @staticmethod
    def _separator(text: str) -> str:
        candidates = itertools.chain(_SEPARATORS, map(chr, range(0xF0000, 0xF1000)))
        return next(c for c in candidates if c not in text)

    def _defuse(self, separator: str, text: str) -> str:
        cuts = [0, *self._control.cuts(text), len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(cuts)]
        return separator.join(self._checked(piece, separator) for piece in pieces)

    def _checked(self, piece: str, separator: str) -> str:
        """The piece, or its letters apart: a tokenizer that normalises may read look-alikes as a control
        string."""
        if self._normalizes and not self._added.isdisjoint(self._encode_piece(piece)):
            return separator.join(piece)
        return piece

    @cached_property
    def _added(self) -> frozenset[int]:
        added = self.tokenizer.get_added_vocab()
        # Where there is a token for what the vocabulary lacks, it comes out of any word; some only name one
        unknown = {self.tokenizer.unk_token_id} & set(self._encode_piece("\u2603\ue1a0"))
        return frozenset(i for text, i in added.items() if text in self._control.all) - unknown

    @cached_property
    def _normalizes(self) -> bool:
        return self._fast is None or self._fast.normalizer is not None

    def _encode_split(self, text: str, separator: str) -> list[int]:
        return [i for piece in text.split(separator) if piece for i in self._encode_piece(piece)]

    def _encode_piece(self, text: str) -> list[int]:
        fast = self._fast
        if fast is None or fast.truncation is not None or fast.padding is not None:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        if len(text) > WINDOW:
            # In one go, during which no other thread runs, it would take seconds; a batch lets others run
            ids: list[int] = fast.encode_batch_fast([text], add_special_tokens=False)[0].ids
        else:
            ids = fast.encode(text, add_special_tokens=False).ids  # its wrapper takes as long again
        return ids

    @cached_property
    def _fast(self) -> Any:
        """The Rust tokenizer inside, which encodes and decodes; None for a tokenizer in Python."""
        return getattr(self.tokenizer, "backend_tokenizer", None)


def load_codec(
    model: str | Path, *, markers: MarkerText | None = None, name: str | None = None, **template_options: Any
) -> HFCodec:
    """The codec of a model folder or hub id.

    Raises:
        UnknownModelError: there is no tokenizer there.
        NoMarkersError: the model has no end-of-thinking marker.
    """
    tokenizer = load_tokenizer(model, name=name)
    return HFCodec(tokenizer, model=name or str(model), markers=markers, template_options=template_options)
