"""Rewards. They read the solution alone: nothing that stands in the thinking can earn anything.

answers        The answer in a solution, and references, as text.
codeforces     Rating and percentile from pass results.
code           Unit tests in a sandbox.
functions      The grader of a kind of problem, and any grader as a TRL reward function.
grades         What a grader reads and returns.
math           math-verify in worker processes (`math_worker`), for AIME, MATH500, GSM8K and the like.
shape          Format and length terms, added or multiplied.
word_problems  Word problems, e1-tiny's task.

The `reward` section of a config says which and how they combine; `make_reward_function` builds what TRL
calls.
"""
