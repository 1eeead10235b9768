"""What may be spent: accounts with caps, holds on them, prices, and a ledger that outlives the process.

May import the core alone.

amounts         tokens and money; rooms, balances and shortages
accounts        accounts and holds: the state
ledger          the ledger in memory: opens, holds, settles, refunds and expires
inherited_caps  how a sub-task's caps follow from its parent's
binding         the account whose cap refused a call
prices          what tokens cost, in whole nano-dollars
clocks          the clocks of this machine
durable         one process's link to a durable ledger: a hold in a store before each call
stores          where a durable ledger can live
"""
