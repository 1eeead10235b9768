"""One request from its body to its end.

choices          The answers of one request while they come: `n` calls side by side, as pieces to
                 show.
generation       A request for answers, from its body to its end: who pays, what runs, and what
                 becomes of errors.
idempotency      One `Idempotency-Key`, one answer: a request that is sent again is answered, not run
                 and paid again.
kept_answers     Where answers are kept that may be asked for again under their `Idempotency-Key`:
                 beside the ledger.
plan             A request as a call: its prompt, its two budgets, and what the engine is told in the
                 solution's pass.
recorder         An answer while it comes, for any number of clients that read along, and for those
                 that come later.
response_writer  One request's answers, written: whole, or as server-sent events.
"""
