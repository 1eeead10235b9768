"""A part of an account's caps, for one run or another process.

account_leases   leases of an account in a durable store: what one run may spend of its thread's caps
remote           a part of a task's caps for a graph in another process, by an id that travels as JSON
"""
