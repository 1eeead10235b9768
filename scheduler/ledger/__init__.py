"""What may be spent: accounts with caps, holds on them, prices, and a ledger that outlives the process.

accounts     amounts, accounts, holds, and what is short of them
ledger       the ledger in memory: opens, holds, settles, refunds and expires
prices       what tokens cost, in whole nano-dollars
durable      one process's link to a durable ledger: a hold in a store before each call
leases       until when holds in a store surely live
acknowledged what a store has acknowledged of some accounts
shortage     which account binds a call that finds no room
clocks       the clocks of this machine
shared_loop  a thread with an event loop that several share
stores       where a durable ledger can live
"""
