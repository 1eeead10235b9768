"""Who pays: keys, tasks, and their accounts on the ledger.

accounts   Who pays: an account on the durable ledger for each key, and one under it for each task.
keys       Keys with caps. Kept beside the ledger: in its SQLite file, its PostgreSQL database or its
           Redis.
sql_table  A table of the gateway's own beside the ledger's, in its SQLite file or its PostgreSQL
           database.
tasks      Tasks that clients name: opened by a POST to `/v1/tasks`, or by a request that brings an id
           and caps.
"""
