"""Who is charged: keys and tasks that clients name, with accounts on the ledger; and hosted tasks.

owner              what the rest of the gateway asks of whoever is charged
keys               API keys with caps
account_scheduler  a scheduler for each account: of a key, or of a task
named_tasks        tasks that clients open, name and close
key_spend          what a key has spent, holds and has left
key_owner          a key's account as the owner of a request
hosted_tasks       tasks of this process that have a key, as owners of requests

Imports `storage`, `errors` and `settings` of the gateway, the scheduler and the core.
"""
