"""The live page: tasks, their caps and their calls in a browser, while they run.

    BudgetScheduler(backend, log=["run.jsonl", LivePage(8101)])    # http://127.0.0.1:8101/ui

view     folds the scheduler's events into trees; plain code, told the time
feed     takes events from any thread, and serves what changed as server-sent events
server   `LivePage`: a page on this machine alone, in a thread of its own
static   the page itself: HTML, CSS and JavaScript, no build step

The gateway has the same page under `/ui`, where a key sees its own tasks alone.
"""

from .server import LivePage

__all__ = ["LivePage"]
