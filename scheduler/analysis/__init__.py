"""What a recorded run says afterwards. May import every other room but runtime.

replay                a run's log fed to a fresh dispatcher, which must write the same lines
replayer              feeds a log step by step, and compares the lines
replayed_dispatcher   the fresh dispatcher, and what each event tells it
regret                how much better a task's cap could have been split
hindsight             the best split, exactly
"""
