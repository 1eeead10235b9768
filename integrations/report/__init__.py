"""Recorded runs for people and programs.

amounts        amounts as people read them
run_file       a run log from its file
run_model      a recorded run as data; text, JSON and HTML are views of it
run_table      `elastic-agent report`: a run's calls, task by task, in 80 columns
run_json       `elastic-agent report --json`
run_page       `elastic-agent report --html FILE`: one page that loads nothing; with `static/`
replay_table   `elastic-agent bench --replay`: whether a run replays, and its regret against hindsight
"""
