"""What a request is charged when its end doesn't say: after an error, or by a provider's own usage report.

May import `usage` and `validation`.

delivery        What became of a request that did not end well, and so whether anything is charged.
known_outcomes  Statuses and client errors that prove that no model ran: add a provider's here.
provider_usage  Providers' usage reports as one kind of numbers, and what a call is charged by them.
"""
