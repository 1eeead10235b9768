"""A graceful end of thinking: a sentence before the forced close; off by default.

    await generate(backend, prompt, Budget(thinking=256, solution=128), wrap_up="Time is up: answer now.")
    await generate(backend, prompt, Budget(thinking=1024, solution=512), wrap_up="qwen3")

Where thinking is cut, the sentence is written in front of the close (and for some models something behind the
close). Its tokens are forced like the close's: billed, held for beforehand, counted in `Usage.close` and
`forced` and, apart, in `wrap_up`; without log-prob, and masked from every loss and importance ratio. They are
in no limit: at most t sampled tokens of thinking, sentence and close, at most s tokens of solution. A close
that the model writes itself has no sentence, and neither has one behind a turn that ended while thinking.

Some models were made with a sentence of their own: `PROFILES` has these by name. Other text is the sentence.
A sentence may help or harm: measure it (`elastic-agent eval --strategies elastic,elastic:wrap_up=1`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import InvalidBudgetError
from ..prompts.markers import Markers, WrapUpIds

if TYPE_CHECKING:
    from ..backends.base import Codec

LONGEST = 2000
"""Characters of a sentence of one's own: it is read, and billed, in every call that is cut."""


@dataclass(frozen=True, slots=True)
class WrapUp:
    """What a model reads around its forced close.

    Attributes:
        before: what stands before the close.
        after: what stands behind it.
        unthought: what stands before it where no thinking was granted; None: the same.
        step: thinking limits are rounded down to a multiple of it, since the model knows no others.
        control: the texts hold control tokens of the model.
    """

    before: str
    after: str = ""
    unthought: str | None = None
    step: int = 1
    control: bool = False


PROFILES: dict[str, WrapUp] = {
    # Qwen3's technical report (arXiv 2505.09388), section 4.3, and docs/getting_started/thinking_budget
    "qwen3": WrapUp(
        "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
        "directly now.\n",
        "\n\n",
    ),
    # Seed-OSS' model card and chat template: trained on multiples of 512 tokens; 0 is advised for less
    "seed-oss": WrapUp(
        "\n<seed:cot_budget_reflect>I have exhausted my token budget, and now I will start answering the "
        "question.</seed:cot_budget_reflect>\n",
        unthought="<seed:cot_budget_reflect>The current thinking budget is 0, so I will directly start "
        "answering the question.</seed:cot_budget_reflect>\n",
        step=512,
        control=True,
    ),
}


def wrap_up_of(text: str) -> WrapUp:
    """A profile by its name, or a sentence of one's own, on a line of its own.

    Raises:
        InvalidBudgetError: an empty sentence, or one of more than 2,000 characters.
    """
    if not isinstance(text, str):
        raise InvalidBudgetError(f"wrap_up must be a sentence, or one of {', '.join(PROFILES)}; not {text!r}")
    if (known := PROFILES.get(text.strip())) is not None:
        return known
    if not text.strip():
        raise InvalidBudgetError(
            "wrap_up is empty: leave it out, or say what is written before a forced close"
        )
    if len(text) > LONGEST:
        raise InvalidBudgetError(f"wrap_up has {len(text)} characters: at most {LONGEST}, in every cut call")
    return WrapUp(f"\n{text.strip()}\n")


def wrapped(codec: Codec, markers: Markers, text: str) -> Markers:
    """The markers with a wrap-up as ids; control strings in a sentence of one's own stay text.

    Raises:
        InvalidBudgetError: see `wrap_up_of`; or the sentence holds the end-of-thinking marker.
    """
    said = wrap_up_of(text)
    spelling = markers.spelling
    encode: Callable[[str], Sequence[int]] = codec.encode
    if said.control and spelling is not None:
        encode = spelling.encode
    ids = WrapUpIds(
        tuple(encode(said.before)),
        tuple(encode(said.after)) if said.after else (),
        None if said.unthought is None else tuple(encode(said.unthought)),
        said.step,
    )
    for part in (ids.before, ids.after, ids.unthought or ()):
        held = any(part[i : i + len(markers.close_ids)] == markers.close_ids for i in range(len(part)))
        if held or markers.eos_ids & set(part) or (markers.close_in_text and markers.close_text in text):
            raise InvalidBudgetError("wrap_up must not hold the end-of-thinking marker, or an end of text")
    return replace(markers, wrap_up=ids)
