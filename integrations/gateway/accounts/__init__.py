"""What calls are charged to: keys, tasks that clients name, and their accounts on the ledger.

keys               API keys with caps
account_scheduler  a scheduler for each account: of a key, or of a task
named_tasks        tasks that clients open, name and close

Imports `storage` and `errors` of the gateway, the scheduler and the core.
"""
