"""The scheduler on an event loop: tasks, calls, deadlines. May import every other room but analysis.

scheduler            what tasks share
task                 a scope with caps, in which calls are granted tokens
task_account         what a task answers its user and its calls: spent, left, prices, its deadline
set_aside            a part of a task's caps, held for something other than a call
task_terms           what a user says of a task
task_budget          a task in one line
context              which task a piece of code belongs to
uncounted            models inside a task that the task can't count
held_call            what all calls have in common: granted, extended, settled once
call                 a call of one of our backends, driven token by token
observer             watches a task's calls
external_call        a call of a model that another library drives
acquire              waits for a grant
clock                the time by which calls and tasks go
passes               runs the dispatcher's pass soon after a call has ended
deadline_controller  moves a running call's limits as its deadline nears
engine_priority      how urgent a call is to an engine that serves many at once
"""
