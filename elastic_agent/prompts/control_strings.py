"""Law 7, user text is data: where a text could become a control token, and how this is prevented.

A user's text can become one of the model's control strings (`</think>`, `<|im_end|>`, every added token) in
three ways:

1. The text holds a control string. It is always broken up.
2. The text begins or ends with a part of one, and its neighbour in the prompt is the rest. A beginning at the
   text's end is always broken up.
3. The text is the middle of one (`|im_start|`, `think`), and the template writes the tags around it.

`risky` finds all three. The codec (`tokenizer`) then compares the prompt with that of a `neutral`
conversation.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

WINDOW = 16_384
"""Characters that are searched or encoded in one go, during which no other thread runs."""
_SHORT = 200  # characters up to which a text is looked at without its signs


class ControlStrings:
    """The control strings of one model.

    Args:
        control: the model's control strings.
        in_text: control strings that are no tokens of their own: markers in plain text.
        normalize: the tokenizer's normalisation of a text, if it has one.
    """

    def __init__(
        self, control: Iterable[str], in_text: Iterable[str], normalize: Callable[[str], str] | None
    ) -> None:
        self.in_text = tuple(in_text)
        # Some vocabularies add runs of spaces, which control nothing
        self.all = frozenset(text for text in (*control, *self.in_text) if len(text.strip()) > 1)
        self._normalize = normalize

    @cached_property
    def _first(self) -> re.Pattern[str]:
        letters = sorted({text[0] for text in self.all})
        return re.compile(f"[{''.join(map(re.escape, letters))}]" if letters else "(?!)")

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """The lengths of control strings, longest first, by their first two letters."""
        found: dict[str, set[int]] = {}
        for text in self.all:
            found.setdefault(text[:2], set()).add(len(text))
        return {begin: sorted(lengths, reverse=True) for begin, lengths in found.items()}

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        """(begin, end) of control strings in a text, the longest at each place.

        A vocabulary may have thousands of them, and a text may be all brackets: so each place is looked up
        once for each length.
        """
        for match in _matches(self._first, text, 1):
            at = match.start()
            for length in self._lengths.get(text[at : at + 2], ()):
                if text[at : at + length] in self.all:
                    yield at, at + length
                    break

    @cached_property
    def _heads(self) -> frozenset[str]:
        return frozenset(text[:n] for text in self.all for n in range(1, len(text)))

    @cached_property
    def _tails(self) -> frozenset[str]:
        return frozenset(text[n:] for text in self.all for n in range(1, len(text)))

    @cached_property
    def _joined(self) -> str:
        return "".join(f"\n{text}\n" for text in self.all)

    @cached_property
    def _letters(self) -> frozenset[str]:
        return frozenset(filter(None, map(_squeezed, self.all)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.all), default=0)

    def cuts(self, text: str) -> list[int]:
        """Where to cut a text so that no piece holds a control string or ends in the beginning of one."""
        at = {begin + 1 for begin, _ in self._found(text)}
        first = max(0, len(text) - self._longest)
        at |= {i + 1 for i in range(first, len(text)) if text[i:] in self._heads}
        for marker in self.in_text:
            # One cut may be where the tokenizer cuts by itself: letter by letter no model spells it
            pattern = re.compile(f"(?={re.escape(marker)})")
            begins = [m.start() for m in _matches(pattern, text, len(marker))]
            last = range(max(0, len(text) - len(marker) + 1), len(text))
            for begin in (*begins, *(i for i in last if marker.startswith(text[i:]))):
                at |= set(range(begin + 1, min(begin + len(marker), len(text)) + 1))
        return sorted(at)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(begin, end) of the parts of a text that are a control string or could be completed to one."""
        seen = text if self._normalize is None else self._normalize(text)
        bare = seen.strip()
        middle = bare != "" and len(bare) < self._longest and self._is_middle(bare)
        # Signs may be what a template replaces: im-start for im_start
        letters = _squeezed(seen) if len(seen) < _SHORT else ""
        if middle or letters in self._letters or (seen != text and self._parts(seen)):
            return [(0, len(text))] if text else []
        return self._parts(text)

    def _is_middle(self, text: str) -> bool:
        """Whether the text stands inside a control string as whole words: templates write tags, not
        letters."""
        at = self._joined.find(text)
        while at >= 0:
            begins = not (text[0].isalnum() and self._joined[at - 1 : at].isalnum())
            if begins and not (text[-1].isalnum() and self._joined[at + len(text)].isalnum()):
                return True
            at = self._joined.find(text, at + 1)
        return False

    def _parts(self, text: str) -> list[tuple[int, int]]:
        near = min(len(text), self._longest)
        found = list(self._found(text))
        found += [(0, n) for n in range(1, near + 1) if text[:n] in self._tails]
        found += [(len(text) - n, len(text)) for n in range(1, near + 1) if text[-n:] in self._heads]
        return found

    def risky(self, text: str) -> bool:
        """Whether a template could make a control token out of a text."""
        return bool(self.spans(text))

    def neutral(self, text: str) -> str:
        """A text of the same length that is no control string and can't become one."""
        letters = list(text)
        for begin, end in self.spans(text):
            letters[begin:end] = ["x" if not c.isspace() else c for c in text[begin:end]]
        return "".join(letters)

    def broken(self, text: str, separator: str) -> str:
        """A risky text with a separator between the letters of its risky parts."""
        at = {i for begin, end in self.spans(text) for i in range(begin, end + 1)}
        cuts = [0, *sorted(at | set(self.cuts(text))), len(text)]
        return separator.join(text[a:b] for a, b in itertools.pairwise(cuts))


def _matches(pattern: re.Pattern[str], text: str, longest: int) -> Iterator[re.Match[str]]:
    """All matches of a pattern that consumes nothing, window by window, so that other threads run in between.

    Args:
        longest: characters that a match looks at, at most.
    """
    for start in range(0, len(text), WINDOW):
        end = start + WINDOW
        for match in pattern.finditer(text, start, min(len(text), end + longest)):
            if match.start() < end:
                yield match


def _squeezed(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()
