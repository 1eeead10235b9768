"""How fast an endpoint is, and how much of a deadline is left for thinking. May import ledger.

model        time to first token and time per output token, learnt as calls run
prefill      what a prompt's length adds to the time to the first token
concurrency  how the speed depends on how many calls run at once, and whether it is slow right now
slowdowns    slowdowns that an endpoint has had, and time kept for the next one
slack        a deadline as moments: until when a call may think, and when its answer must be over
"""
