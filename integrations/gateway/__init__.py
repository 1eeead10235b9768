"""`elastic-agent serve`: an OpenAI-compatible server that gives every call a thinking and a solution budget.

Rooms, from the ground up; each may import those above it, `errors` and `settings`, and the other parts:

ops       connections, the listening socket, metrics, a watchdog of the event loop
storage   keys and kept answers, beside the ledger
accounts  who is charged: keys and named tasks with their accounts on the ledger, and hosted tasks
api       what clients send: headers and bodies, checked
answers   answers on their way to the client
serving   one request for an answer, from its body to its end
routes    around every request; tasks and status

app       the gateway: makes the rooms' parts, starts and stops them
settings  its models, limits, ledger and address
served_models  the models that are served now, and those that a reload took away
errors    errors in OpenAI's shape
"""
