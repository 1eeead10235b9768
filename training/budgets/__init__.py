"""Which Budget each group of samples gets.

distributions  Which budget each group of samples gets: distributions over (t*, s*), as plain values
               without IO.
run_logs       The budgets that a scheduler really handed out, read from its run logs.
"""
