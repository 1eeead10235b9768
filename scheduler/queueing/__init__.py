"""Who is next at an endpoint, and which deadlines are accepted.

wait_queue          the calls that wait in one tree of tasks
call_order          the ready calls of one endpoint, in order
endpoint            one model's limits and its waiting calls
deadline_admission  whether one more deadline can be kept beside all others
feasibility         list scheduling: work laid onto an endpoint's slots
"""
