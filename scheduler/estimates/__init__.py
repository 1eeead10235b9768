"""How much work is still to come, and what thinking is worth for it. May import ledger and latency.

success_curve   probability of success by thinking tokens, per kind of call
curve_files     measured success curves from files
online_curves   success curves learnt from the calls themselves
lengths         distributions of tokens
workload        how many calls of which kind are still to come
call_stats      tokens of the latest calls by kind, and how long an endpoint's answers take
agent_history   what earlier tasks of the same agent were like
"""
