"""Attention for decoding models whose heads share keys and values (GQA), without copying the cache.

transformers' "sdpa" repeats keys and values for every query head as soon as there is a mask: for each token
the whole cache is copied. With one new token a row, the query heads of a group can stand where tokens stand
instead, and look at the one copy that there is. Same sums, three times as many tokens/s on e1-tiny at 192
rows (docs/lab-notes.md). Every other shape goes the usual way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

GROUPED = "grouped_sdpa"
"""For `attn_implementation=` of transformers' `from_pretrained`."""


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[rows, heads, new, dim] queries on [rows, groups, span, dim] keys: [rows, new, heads, dim]."""
    rows, heads, new, dim = query.shape
    groups = key.shape[1]
    per_head = attention_mask is not None and attention_mask.shape[1] != 1
    if new != 1 or heads == groups or per_head:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    stacked = query.reshape(rows, groups, heads // groups, dim)
    found = torch.nn.functional.scaled_dot_product_attention(
        stacked, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return found.reshape(rows, 1, heads, dim), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
