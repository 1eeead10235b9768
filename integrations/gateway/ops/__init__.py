"""What keeps the gateway running: connections, a watchdog, metrics.

connections  The connections of the gateway: how many there may be, which go first, and what they may
             see of each other.
metrics      The gateway's numbers for Prometheus, beside those of the scheduler. No key, task or
             prompt is in them.
watchdog     Tells who makes the event loop stand still: for how long, in which request, and where in
             the code.
"""
