"""Caps on an agent's runs and threads. Needs the package `langchain`.

invocations  When an invocation of a graph ends: by its end, an error, a cancellation, an interrupt,
             or its reader left.
middleware   `TaskBudgetMiddleware`: caps on each run of a `create_agent` agent, and on each of its
             threads.
"""
