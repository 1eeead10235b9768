"""`elastic-agent eval`: accuracy against tokens, for every way of keeping to a budget, on any model.

passes and strategies    a strategy is a generator of passes; nothing in there knows of IO
engines                  who draws samples: in_process in batches, or served by any backend (a vLLM server)
suites, graders          problems, who grades them, and words for probes
grading, ratings         grading beside drawing; Codeforces ratings
grid, results            what is to be measured, checked first; one line a sample, resumable
stats, tables            intervals, the paper's table, curves for the scheduler (plots: training.plots)
inspector                the same problems before and after training, as a page
points                   one model at one budget, in process, for tests and benchmarks
"""

from elastic_agent.training.evaluate.cli import main
from elastic_agent.training.evaluate.graders import FunctionGrader
from elastic_agent.training.evaluate.grid import Grid, GridError, check, run
from elastic_agent.training.evaluate.options import CURVE_BUDGETS
from elastic_agent.training.evaluate.passes import Strategy
from elastic_agent.training.evaluate.points import PAPER_SAMPLING, Evaluator, Outcome, Point, table
from elastic_agent.training.evaluate.results import Key, Record, Results, ResultsFileError
from elastic_agent.training.evaluate.stats import Summary, bootstrap, curves_of, interval, spread, summarize
from elastic_agent.training.evaluate.strategies import STRATEGIES, make_strategy
from elastic_agent.training.evaluate.suites import SEEDS, Item, Suite, set_suite, stock_suite

__all__ = [
    "CURVE_BUDGETS",
    "Evaluator",
    "FunctionGrader",
    "Grid",
    "GridError",
    "Item",
    "Key",
    "Outcome",
    "PAPER_SAMPLING",
    "Point",
    "Record",
    "Results",
    "ResultsFileError",
    "SEEDS",
    "STRATEGIES",
    "Strategy",
    "Suite",
    "Summary",
    "bootstrap",
    "check",
    "curves_of",
    "interval",
    "main",
    "make_strategy",
    "run",
    "set_suite",
    "spread",
    "stock_suite",
    "summarize",
    "table",
]
