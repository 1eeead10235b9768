"""How thinking is shared out among the calls of a task, and among tasks.

marginal   the protocol of a policy, and the default: thinking goes where it gains most
simple     fixed caps and the practices that the default is measured against
pacing     a price for what all tasks share
"""
