"""A Hugging Face model in this process.

attention  Attention for decoding models whose heads share keys and values (GQA), without copying the
           cache.
backend    A Hugging Face model in this process: the embedded default, on CPU or GPU.
decode     Batched decoding of a Hugging Face causal model, one token a step, without asyncio.
draw       Drawing tokens from logits, exactly, without putting a large vocabulary in order.
slots      The key/value cache of a `BatchDecoder`: slots for rows, which move, are copied, and grow
           together.
"""
