"""Runs code that nobody trusts: a model's program, once for each of its tests.

guard    The program that runs untrusted code: `elastic_agent.training.sandbox.sandbox` starts it, one
         process for each sample.
sandbox  Runs code that nobody trusts: a model's program, once for each of its tests.
"""
