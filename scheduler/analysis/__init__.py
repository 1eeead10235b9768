"""What a recorded run says afterwards. May import every other room but runtime.

replay      a run's log fed to a fresh dispatcher, which must write the same lines
replayer    tells a dispatcher what a log says, line by line
regret      how much better a task's cap could have been split
hindsight   the best split, exactly
"""
