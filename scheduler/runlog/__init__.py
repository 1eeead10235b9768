"""What is written of a run: events, and the reports made from them. May import all but dispatch and runtime.

events        the schema of `run.jsonl`, and where events go
recorder      writes a dispatcher's inputs and decisions
readings      writes the speeds that the dispatcher reads
curve_format  success curves in a log
report        what a task did, call by call
"""
