"""One call: thinking, the close, the solution; driven over any backend.

May import `backends`, `prompts`, `tool_calls` and the root's modules.

backend_pass     One pass of a call over its backend, and a probe in between.
call             One call, driven: asks the machine for each pass, and gives out events.
control          Steers a running call: deadlines for thinking and solution, the thinking limit.
early_exit       Stop thinking when the answer no longer changes; off by default.
events           Deltas of token ids as events with text.
generate         `generate` and `stream`: one call in one line.
guided_decoding  Whether an engine can keep to a guided call's fields; found out at no token.
machine_runner   Two-phase machines driven without text: a batch for training, or one over a backend.
phases/          The two-phase machine itself, without IO, clock or text.
prepare          What a call needs before it starts: prompt ids, markers, a Budget that fits.
result           What a call brings: its events, and the whole answer.
text             Token ids as text while they stream, and stop strings in it.
wrap_up          A sentence before the forced close; off by default.
"""
