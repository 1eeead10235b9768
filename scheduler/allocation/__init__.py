"""One call's Budget from one snapshot.

request    a call that asks for tokens, and a task's scheduling state
snapshot   the facts of one decision
demand     what calls are expected to use besides the thinking that is decided
capacity   what fits now, and how much thinking the policy would give
allocator  one decision: tokens, wait, or an error
degrade    what happens on shortage
grant      what a call is given, and the reason in words
"""
