"""How much work is still to come, and what thinking is worth for it.

success_curve   probability of success by thinking tokens, per kind of call; curves from files
online_curves   success curves learnt from the calls themselves
workload        how many calls of which kind are still to come, and what each uses besides thinking
call_stats      how long an endpoint's answers take
agent_history   what earlier tasks of the same agent were like
"""
