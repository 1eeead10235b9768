"""The two-phase machine of one call: pure code without IO, clock or text.

May import `backends.base` (requests), `prompts.markers`, `tool_calls`, `budget` and `usage`.

answer           A solution's tokens as the answer and as thinking that the model opened again.
deltas           Pieces of a call's output, each of one segment.
stop_reasons     Why thinking ended and why the solution ended: add a stop reason here.
tool_call_start  The start of a tool call in thinking, which ends thinking.
two_phase        The machine: thinking, the close, the solution; with its diagram.
"""
