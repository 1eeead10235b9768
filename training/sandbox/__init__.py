"""Runs code that nobody trusts: a model's program, once for each of its tests. Imports the core alone.

sandbox     `Sandbox`, and a `Session` for each sample, in the trainer's process; the limits.
supervisor  The program that a session starts: it forks, confines, watches and ends the sample's processes.
"""
