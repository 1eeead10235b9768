"""One call: thinking, the close, the solution; driven over any backend.

answer      A solution's tokens as the answer and as thinking that the model opened again.
control     Steering a running call from outside: when thinking and solution must end, and how long
            thinking may be.
early_exit  Stop thinking when the answer no longer changes (as Dynasor does, arXiv 2412.20993); off
            by default.
generate    One call, driven: the machine says what to ask, the backend answers, text comes out.
phases      One call as a two-phase state machine, without IO, clock or text.
text        Token ids as text while they stream, and stop strings in it.
wrap_up     A graceful end of thinking: a sentence before the forced close; off by default.
"""
