"""Drawing without sorting: each token has just the probability that temperature, top-k and top-p leave it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elastic_agent.backends.transformers.draw import draw

VOCABULARY = 300
CASES = [(VOCABULARY, 1.0), (VOCABULARY, 0.9), (VOCABULARY, 0.3), (7, 1.0), (7, 0.5), (90, 0.8), (90, 1.0)]


def naive(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """The probability of each token, from the definition."""
    probs = logits.double().softmax(-1)
    ranked = sorted(range(len(probs)), key=lambda i: -probs[i].item())[:top_k]
    whole, nucleus = sum(probs[i].item() for i in ranked), 0.0
    out = torch.zeros_like(probs)
    for i in ranked:
        if nucleus >= top_p:
            break
        out[i] = probs[i]
        nucleus += probs[i].item() / whole
    return out / out.sum()


@pytest.mark.parametrize(("top_k", "top_p"), CASES)
@pytest.mark.parametrize("spread", [0.3, 2.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("prefix", [16, VOCABULARY])
def test_every_token_has_its_probability(top_k: int, top_p: float, spread: float, prefix: int) -> None:
    """Not a sample of it: over an even grid of shares the counts are the probabilities, but for its edges."""
    n = 40_000
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5)) * spread
    drawn = draw(
        logits.expand(n, -1),
        torch.full((n,), top_k),
        torch.full((n,), top_p),
        (torch.arange(n) + 0.5) / n,
        prefix=prefix,
    )
    counts = torch.bincount(drawn, minlength=VOCABULARY)
    wanted = naive(logits, top_k, top_p)
    assert not counts[wanted == 0].any()
    assert (counts / n - wanted).abs().max() < 1.5 / n + 1e-5


@pytest.mark.parametrize(("top_k", "top_p"), CASES)
def test_the_prefix_changes_no_draw_that_it_decides(top_k: int, top_p: float) -> None:
    """The same number draws the same token, however many are put in order; beyond it the order differs."""
    n = 2_000
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(n, VOCABULARY, generator=generator) * 3
    settings = (torch.full((n,), top_k), torch.full((n,), top_p), torch.rand(n, generator=generator))
    short, full = (draw(logits, *settings, prefix=prefix) for prefix in (32, VOCABULARY))
    rank = (logits > logits.gather(1, full[:, None])).sum(-1)
    decided = rank < 31 if top_p == 1 and top_k == VOCABULARY else torch.ones(n, dtype=torch.bool)
    assert (short == full)[decided].float().mean() > 0.999  # rounding, where a share meets an edge
    assert decided.float().mean() > 0.5


def test_rows_of_all_kinds_in_one_batch_and_words_that_cannot_come() -> None:
    """Each row by its own settings; what has no probability is never drawn, at either end."""
    logits = torch.full((6, VOCABULARY), -torch.inf)
    logits[:, 10:40] = torch.linspace(2, -2, 30)
    top_k = torch.tensor([VOCABULARY, VOCABULARY, 1, 20, VOCABULARY, VOCABULARY])
    top_p = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, 1.0])
    at = torch.tensor([0.0, 1 - 2**-24, 0.7, 1 - 2**-24, 1 - 2**-24, 0.999])
    for prefix in (4, 30, 64):
        drawn = draw(logits, top_k, top_p, at, prefix=prefix).tolist()
        assert drawn[0] == drawn[2] == 10
        assert all(10 <= token < 40 for token in drawn)
        assert drawn[3] == 29
    one = torch.full((1, VOCABULARY), -torch.inf)
    one[0, 77] = 1.0
    assert draw(one, top_k[:1], top_p[:1], at[1:2], prefix=4).tolist() == [77]
