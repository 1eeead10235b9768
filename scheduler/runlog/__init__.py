"""What is written of a run: events, and the reports made from them.

events     the schema of `run.jsonl`, and where events go
recorder   writes everything that the dispatcher is told and decides
report     what a task did, call by call
"""
