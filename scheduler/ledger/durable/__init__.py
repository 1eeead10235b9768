"""One process's link to a durable ledger: no call leaves without a hold that outlives this process.

The scheduler decides on the accounts in memory; the store has the last word. A granted call takes its hold
there, for the same amount and already marked as dispatched, and only then is it sent. Where the store lacks
room, because other processes have spent or hold it, the call is decided again with what is really left: it
shrinks, waits or is refused.

durable_ledger  what the scheduler and its calls ask: open, take, assure, end, close
options         how long leases and tries last, and `account()`, which describes an account
mirror          the store's accounts in memory, above every task
reserves        holds in the store for the final answers of tasks
own_holds       what this process holds in the store, and what it was charged
write_behind    ends of holds, written after the fact
store_link      the thread that asks the store, and asks it again
leases          until when holds in the store surely live
acknowledged    what the store has acknowledged, and may never say less of
shared_loop     a thread with an event loop that several ledgers share
"""
