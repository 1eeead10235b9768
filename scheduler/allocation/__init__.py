"""One call's Budget from one snapshot. Read-only: nothing here writes; `dispatch.apply` does.

May import ledger, latency, estimates and policies.

call_terms  what is said of a call: its user's terms, its size, its model
task_state  a task as the dispatcher knows it
request     a call that asks for tokens, and a granted one
snapshot    what one decision rests on, copied into frozen values
reserves    what is kept for final answers, and which reserves a decision moves
demand      what calls are expected to use besides the thinking that is decided
headroom    what the call may take of tokens, money and time, worked out from a snapshot
capacity    what fits now, and how much thinking the policy would give
allocator   one decision
degrade     what happens on shortage: wait, shrink, the last call, or a refusal
decision    the answer: an allocation, a wait, a refusal, and the reserves that move
grant       what a call is given, and the reason in words
"""
