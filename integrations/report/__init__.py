"""Tables of recorded runs, for the terminal.

run_table      `elastic-agent report`: a run's calls, task by task
replay_table   `elastic-agent bench --replay`: whether a run replays, and its regret against hindsight
"""
