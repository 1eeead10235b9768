"""Where thinking ends: markers found in a vocabulary, and openings read off a prompt."""

from __future__ import annotations

import pytest

from elastic_agent.errors import NoMarkersError
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.marker_resolution import resolve_markers
from elastic_agent.prompts.markers import Markers, Opening

EOS, TURN, OPEN, CLOSE = 0, 1, 2, 3
ONE = Markers((OPEN,), (CLOSE,), frozenset({EOS}), frozenset({TURN}))
SPELLED = Markers((7, 8), (9, 8), frozenset({EOS}))


def letters(text: str) -> list[int]:
    return [ord(c) for c in text]


def resolve(
    vocabulary: dict[str, int], template: str | None = None, wanted: MarkerText | None = None
) -> Markers:
    return resolve_markers(
        vocabulary=vocabulary,
        encode=letters,
        chat_template=template,
        eos_ids=[EOS],
        wanted=wanted,
        model="some-model",
    )


def test_one_token_of_the_vocabulary() -> None:
    """No id is hard-coded: the vocabulary says which token it is."""
    found = resolve({"<think>": 151648, "</think>": 151649})
    assert (found.open_ids, found.close_ids) == ((151648,), (151649,))
    assert resolve({"[THINK]": 5, "[/THINK]": 6}).close_ids == (6,)


def test_spelled_when_only_the_template_writes_it() -> None:
    """A marker of several tokens is relied on only where the model's own template writes it."""
    assert resolve({}, "... </think> ...").close_ids == tuple(letters("</think>"))


def test_named_by_the_caller_wins() -> None:
    """A caller's markers win over known ones; an end without a start is possible."""
    wanted = MarkerText("", "<answer>")
    found = resolve({"</think>": 6}, wanted=wanted)
    assert (found.open_ids, found.close_ids) == ((), tuple(letters("<answer>")))


def test_none_fails_loudly() -> None:
    """Bad input: a budget on a model without markers is an error that names it and says what to do."""
    with pytest.raises(NoMarkersError, match=r"some-model.*markers=MarkerText"):
        resolve({"hello": 1}, "{{ messages }}")
    with pytest.raises(NoMarkersError, match="empty"):
        resolve({}, wanted=MarkerText("", ""))
    with pytest.raises(NoMarkersError, match="end-of-text"):
        Markers((1,), (EOS,), frozenset({EOS}))


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ([TURN, 20], Opening.SELF),
        ([TURN, 20, OPEN], Opening.PREFILLED),
        ([TURN, 20, OPEN, 30], Opening.PREFILLED),
        ([TURN, 20, OPEN, CLOSE], Opening.CLOSED),
        ([TURN, OPEN, 20, CLOSE, 21, TURN, 22], Opening.SELF),
        ([TURN, OPEN, 20, CLOSE, 21, TURN, OPEN], Opening.PREFILLED),
        ([OPEN, 20, CLOSE, 21, EOS, 22], Opening.SELF),
        ([CLOSE], Opening.CLOSED),
        ([], Opening.SELF),
    ],
)
def test_openings(prompt: list[int], opening: Opening) -> None:
    """Prefilled, self-opened or switched off: read off the last turn, whatever earlier turns hold; the end
    of an earlier answer is a turn's end even where no start-of-turn token is known."""
    assert ONE.opening(prompt) is opening


def test_openings_of_several_tokens() -> None:
    """The same for markers of several tokens, halves not counting."""
    assert SPELLED.opening([20, 7, 8]) is Opening.PREFILLED
    assert SPELLED.opening([20, 7]) is Opening.SELF
    assert SPELLED.opening([7, 8, 20, 9, 8]) is Opening.CLOSED
    assert SPELLED.opening([7, 8, 20, 9]) is Opening.PREFILLED
