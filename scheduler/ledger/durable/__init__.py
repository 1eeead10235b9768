"""One process's link to a durable ledger: no call leaves without a hold that outlives this process.

The scheduler decides on the accounts in memory; the store has the last word. A granted call takes the same
hold in the store, already marked as dispatched, and is sent only then. If the store has no room, because
other processes have spent or hold it, the call is decided again with what is really left: it shrinks, waits
or is refused.

durable_ledger  what the scheduler and its calls ask: open, take, assure, end, close
options         how long leases and tries last, and `account()`, which describes an account
mirror          the store's accounts in memory, above every task
reserves        holds in the store for the final answers of tasks
own_holds       what this process holds in the store, and what it was charged
write_behind    ends of holds, written while no call waits
store_link      the thread that runs and repeats steps on the store
leases          until when holds in the store surely live
acknowledged    the least that the store may say was charged
shared_loop     a thread with an event loop that several ledgers share
"""
