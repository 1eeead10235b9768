"""The decision loop: the only place, beside the ledger, that writes accounts and the states of tasks.

May import all packages of the scheduler but runtime and analysis.

dispatcher  calls ask here, and are granted, made to wait, or refused; tasks open and close
apply       writes what was decided
set_aside   a part of a task's caps is held for something other than a call
revision    a running call's limit is extended or reduced
"""
