"""Evaluates agents by caps: `elastic-agent eval --agent`. May import the agents' room of training.

evaluate   runs an agent's episodes under caps
summary    success, tokens, dollars and seconds by cap; curves by kind of call
options    the command line
cli        options in, tables and files out
"""
