"""Which Budget each group of samples gets. Imports the core alone.

distributions  Distributions over (t*, s*), as plain values without IO; how a batch is dealt from them.
run_logs       The budgets that a scheduler really handed out, read from its run logs.
"""
