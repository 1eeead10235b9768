"""What a recorded run says afterwards.

replay      a run's log fed to a fresh dispatcher, which must write the same lines
regret      how much better a task's cap could have been split
hindsight   the best split, exactly
"""
