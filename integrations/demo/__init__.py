"""`elastic-agent demo`: a LangGraph agent works through a shop's week under a money cap and a deadline.

run        the demo from start to end
agent      the agent: a LangGraph with parallel branches
baseline   the same work under one fixed `max_tokens`
problems   the word problems, read from a file
board      what the screen shows, kept up to date by events
display    the screen and the tables
"""
