"""The decision loop: the only place, beside the ledger, that writes accounts and the states of tasks.

May import all packages of the scheduler but runtime and analysis.

dispatcher      the door: what tasks and calls tell the dispatcher, each a step under the ledger's lock
decision_loop   the calls that wait, and in which order they are decided on
call_decision   one waiting call: a grant, a wait, or a refusal
running_calls   the granted calls: how they start, what they are expected to use, how they end
revision        a running call's limit is extended or reduced
task_lifecycle  a task opens, declares calls, ends
apply           writes what was decided
set_aside       a part of a task's caps is held for something other than a call
"""
