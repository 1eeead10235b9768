"""The scheduler on an event loop: tasks, calls, deadlines.

scheduler        what tasks share
task             a scope with caps, in which calls are granted tokens
task_budget      a task without ceremony
context          which task a piece of code belongs to
uncounted        models inside a task that the task can't count
call             one call of a backend: granted, run, steered, settled
external_call    one call of a model that another library drives
acquire          waits for a grant
engine_priority  how urgent a call is to an engine that serves many at once
offline_task     grants without an event loop
"""
