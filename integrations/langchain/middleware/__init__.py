"""Caps on an agent's runs and threads. Needs the package `langchain`.

middleware    `TaskBudgetMiddleware`: caps on each run of a `create_agent` agent, and on each of its threads
agent_run     one run: its task, and its lease of the thread's account
invocations   when a graph's invocation ends, whatever ended it
"""
