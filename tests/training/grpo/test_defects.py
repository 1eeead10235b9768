"""The authors' defects (FACTS, section 1), each as a promise that ours keeps and a broken variant does not.

Every promise is a function that raises AssertionError where it is broken. Each is run on ours, and on a
variant that has the defect on purpose: a test that could not fail would prove nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.budget import Budget
from elastic_agent.prompts.markers import Markers
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.rollouts.prompts import codec_of
from elastic_agent.training.rollouts.rollout import Rollout, machine_for, rollout_of
from elastic_agent.training.rollouts.single_calls import Defects, for_loss
from elastic_agent.training.run import train
from tests.core.prompts.vocabularies import merging
from tests.training.runs import EASY, gradient, make_base, small, trainer_of
from tools.e1_tiny.tokenizer import CLOSE, END, PAD, THINK, build_tokenizer, vocabulary

VOCAB = vocabulary()
CLIPPED = {
    "steps": 2,
    "rollout": {"prompts": 6},
    "learning": {"iterations": 3, "rate": 0.02, "schedule": "constant"},
    "reward": {"kind": EASY},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


# Forced is not sampled (law 6): the close that was appended moves no weight, whatever its log-prob was.


def the_forced_close_is_not_trained_on(trainer: Any) -> None:
    """Nothing that is said of a forced token changes the gradient: not its ratio, not its weight.

    With seed 1 every close of the batch is forced, and none was sampled.
    """
    import torch

    inputs = dict(trainer._buffered_inputs[0])
    forced = (inputs["completion_ids"] == VOCAB[CLOSE]) & (inputs["completion_mask"] == 1)
    assert forced.any()
    advantages = torch.linspace(-1, 1, len(forced))[:, None].expand(forced.shape).clone()
    shifted = advantages.clone()
    shifted[forced] = 50.0
    before = gradient(trainer, {**inputs, "advantages": advantages})
    after = gradient(trainer, {**inputs, "advantages": shifted})
    assert before.abs().max() > 0
    assert torch.equal(before, after), "a forced token moved the weights"


def test_the_forced_close_is_in_no_loss(base: Path, tmp_path: Path) -> None:
    the_forced_close_is_not_trained_on(trainer_of(small(base, tmp_path / "ours", seed=1)))
    broken = small(base, tmp_path / "theirs", seed=1, authors_compat="forced-close-in-loss")
    with pytest.raises(AssertionError, match="moved the weights"):
        the_forced_close_is_not_trained_on(trainer_of(broken))


# Clipping that clips: beyond the range, in the direction of the advantage, a token pushes no further.


def clipping_bites(trainer: Any) -> None:
    """All ratios are e^0.5 with good advantages, or e^-0.5 with bad ones: there is nothing left to learn."""
    import torch

    inputs = dict(trainer._buffered_inputs[0])
    assert "old_per_token_logps" in inputs, "without old log-probs the ratio is 1 for ever"
    for sign in (1.0, -1.0):
        logps = inputs["old_per_token_logps"] - 0.5 * sign
        found = gradient(
            trainer,
            {**inputs, "old_per_token_logps": logps, "advantages": torch.full((len(logps),), sign)},
        )
        assert found.abs().max() == 0, "a ratio outside the range still moves the weights"
        inside = gradient(
            trainer,
            {**inputs, "old_per_token_logps": logps, "advantages": torch.full((len(logps),), -sign)},
        )
        assert inside.abs().max() > 0, "the way back is never clipped"


def test_clipping_is_active(base: Path, tmp_path: Path) -> None:
    clipping_bites(trainer_of(small(base, tmp_path / "ours", **CLIPPED)))
    theirs = small(base, tmp_path / "theirs", **CLIPPED, authors_compat="inert-clipping")
    with pytest.raises(AssertionError, match="still moves the weights"):
        clipping_bites(trainer_of(theirs))
    once = small(base, tmp_path / "once", reward={"kind": EASY})
    with pytest.raises(AssertionError, match="ratio is 1 for ever"):
        clipping_bites(trainer_of(once))


def test_clipping_shows_in_a_run(base: Path, tmp_path: Path) -> None:
    """With several updates a batch the ratio moves, some tokens are clipped, and the log says how many."""
    shares = {}
    for name, compat in (("ours", False), ("theirs", True)):
        train(small(base, tmp_path / name, **CLIPPED, authors_compat=compat), log=lambda _: None)
        rows = read_csv((tmp_path / name / "metrics.csv").read_text())
        shares[name] = [row["clip_ratio/region_mean"] for row in rows]
    assert min(share or 0 for share in shares["ours"]) > 0
    assert shares["theirs"] == [0, 0]
    train(small(base, tmp_path / "once", reward={"kind": EASY}), log=lambda _: None)
    rows = read_csv((tmp_path / "once" / "metrics.csv").read_text())
    assert [row["clip_ratio/region_mean"] for row in rows] == [0, 0], "one update a batch: nothing to clip"


# pad == eos: padding is no end, and an end is no padding.


def rollout(solution: list[int], limit: int, tokenizer: Any) -> Rollout:
    """One sample, cut after two thinking tokens, whose solution is what is given."""
    markers = codec_of(tokenizer).markers
    machine = machine_for([VOCAB[THINK]], Budget(2, limit), markers, 64)
    machine.next_pass()
    machine.feed([VOCAB["start"], VOCAB["4"]])
    machine.close()
    machine.next_pass()
    machine.feed(solution)
    return rollout_of(machine)


def an_end_is_trained_when_it_was_sampled_and_only_then(
    given: Callable[[Rollout, Any], tuple[list[int], list[int]]], tokenizer: Any
) -> None:
    end = tokenizer.eos_token_id
    assert end == tokenizer.pad_token_id
    ended = rollout([VOCAB["4"], VOCAB["."], end], 8, tokenizer)
    ids, mask = given(ended, tokenizer)
    assert (ids[-1], mask[-1]) == (end, 1), "the sampled end is not trained"
    cut = rollout([VOCAB["4"], VOCAB["."], VOCAB["4"]], 3, tokenizer)
    ids, mask = given(cut, tokenizer)
    assert not [i for i, m in zip(ids, mask, strict=True) if m and i == end], "an end that was never sampled"
    assert sum(mask) == 2 + 3


def padded_by_value(sample: Rollout, tokenizer: Any) -> tuple[list[int], list[int]]:
    """A broken variant: what looks like padding is masked as padding."""
    ids, mask = for_loss(sample, tokenizer, Defects())
    return ids, [m if i != tokenizer.pad_token_id else 0 for i, m in zip(ids, mask, strict=True)]


def test_padding_with_the_end_of_text(base: Path, tmp_path: Path) -> None:
    import shutil

    tokenizer = build_tokenizer()
    tokenizer.pad_token = END
    promise = an_end_is_trained_when_it_was_sampled_and_only_then
    promise(lambda r, t: for_loss(r, t, Defects()), tokenizer)
    with pytest.raises(AssertionError, match="never sampled"):
        promise(lambda r, t: for_loss(r, t, Defects(fake_end=True)), tokenizer)
    with pytest.raises(AssertionError, match="not trained"):
        promise(padded_by_value, tokenizer)
    distinct = rollout([VOCAB["4"]] * 3, 3, build_tokenizer())
    assert for_loss(distinct, build_tokenizer(), Defects(fake_end=True)) == for_loss(
        distinct, build_tokenizer(), Defects()
    ), "the defect needs pad == eos"
    # Through TRL: the padding behind a short sample is in no loss, though it is the end-of-text id
    shutil.copytree(base, tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    trainer = trainer_of(small(tmp_path / "base", tmp_path / "out"))
    inputs = trainer._buffered_inputs[0]
    lengths = inputs["completion_mask"].sum(1)
    assert lengths.min() < lengths.max()
    assert trainer.processing_class.pad_token_id == VOCAB[END] != VOCAB[PAD]
    assert (inputs["completion_ids"][inputs["completion_mask"] == 0] == VOCAB[END]).all()
    sampled = (inputs["completion_mask"] * inputs["tool_mask"]).sum(1)
    forced = ((inputs["completion_ids"] == VOCAB[CLOSE]) & (inputs["completion_mask"] == 1)).sum(1)
    assert ((lengths - sampled) <= forced).all()


# No id is hard-coded: the close is whatever the tokenizer says.


def the_close_is_what_the_tokenizer_says(resolve: Callable[[Any], Markers]) -> None:
    own, other, spelled = build_tokenizer(), merging(controls=("<think>", "</think>")), merging()
    pieces = tuple(spelled.get_vocab()[piece] for piece in ("</", "think", ">"))
    for tokenizer, close in (
        (own, (VOCAB[CLOSE],)),
        (other, (other.get_vocab()["</think>"],)),
        (spelled, pieces),
    ):
        assert resolve(tokenizer).close_ids == close, "another token than the close"


def test_marker_ids_come_from_the_tokenizer() -> None:
    the_close_is_what_the_tokenizer_says(lambda tokenizer: codec_of(tokenizer).markers)
    with pytest.raises(AssertionError, match="another token"):
        the_close_is_what_the_tokenizer_says(
            lambda tokenizer: Markers((151648,), (151649,), frozenset({tokenizer.eos_token_id}))
        )
