"""Small models for tests: random weights, wide enough apart that no two logits tie."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.prompts.tokenizer import HFCodec
from tools.e1_tiny.model import new_model
from tools.e1_tiny.tokenizer import build_tokenizer


@cache
def random_model() -> Any:
    """A Qwen3 of two layers. Its weights are large, so that rounding doesn't decide which token comes."""
    torch.manual_seed(7)
    model = new_model(hidden=64, layers=2, heads=2, mlp=128).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    return model


@cache
def codec() -> HFCodec:
    """e1-tiny's."""
    return HFCodec(build_tokenizer(), model="tiny-random")


def random_backend(max_rows: int = 16) -> TransformersBackend:
    return TransformersBackend(random_model(), codec(), name="tiny-random", max_rows=max_rows)
