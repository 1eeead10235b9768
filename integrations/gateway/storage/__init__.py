"""What the gateway keeps beside the ledger: API keys, and answers that may be asked for again.

tables        a table in memory, SQLite, PostgreSQL or Redis: its connection, steps and errors
key_table     API keys by their digest
answer_table  answers by their Idempotency-Key
task_table    what was said of tasks when they were opened

Imports the core and the scheduler's stores; nothing else of the gateway.
"""
