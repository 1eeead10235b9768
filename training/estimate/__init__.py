"""How much memory a run needs on each process: `elastic-agent train --estimate`. May import grpo and below.

The model is made of tensors that have shapes and no numbers, and computes one forward and backward pass of
the longest rows; each tensor that the pass makes is counted until it is freed. So nothing here knows an
architecture, and a model of any size takes seconds.

estimate    All parts of a launch, and their sums.
live_bytes  Counts the bytes of the tensors that live at a time.
sampling    What the decoder in this process holds: keys, values and one forward pass.
shapes      The model of a config without numbers.
table       The estimate as a table for people and as JSON.
update      What a micro-batch holds: activations, gradients, the head.
"""
