"""The two-phase machine of one call: pure code without IO, clock or text.

May import `backends.base` (requests), `prompts.markers`, `tool_calls`, `budget` and `usage`.

answer           A solution's tokens as the answer and as thinking that the model opened again.
deltas           Pieces of a call's output, each of one segment.
emitter          Gives out tokens as deltas, once it is certain what they belong to.
marker_scan      Finds the start marker and the close in sampled tokens.
output           A call's tokens so far, and where its segments end.
pass_counts      What the passes cost beside the tokens of the answer.
passes           The kinds of passes: thinking, solution, or both in one.
phase            Where a call stands.
record           Everything that is known of one call.
stop_reasons     Why thinking ended and why the solution ended: add a stop reason here.
tool_call_start  The start of a tool call in thinking, which ends thinking.
two_phase        The machine: thinking, the close, the solution; with its diagram.
"""
