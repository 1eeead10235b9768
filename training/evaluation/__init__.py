"""`elastic-agent eval`: accuracy against tokens, for every way of keeping to a budget, on any model.

passes and strategies    a strategy is a generator of passes; nothing in there knows of IO
engines                  who draws samples: in_process in batches, or served by any backend (a vLLM server)
suites, graders          problems, who grades them, and words for probes
grading, ratings         grading beside drawing; Codeforces ratings
grid, results            what is to be measured, checked first; one line a sample, resumable
stats, tables            intervals, the paper's table, curves for the scheduler (plots: training.plots)
inspector                the same problems before and after training, as a page
"""

from .cli import main
from .grid import Grid, GridError, check, measure, run
from .options import CURVE_BUDGETS
from .reports.stats import Summary, bootstrap, curves_of, interval, spread, summarize
from .results import Key, Record, Results, ResultsFileError
from .runners.custom_graders import FunctionGrader
from .runners.in_process import InProcess
from .strategies.passes import Strategy
from .strategies.strategies import STRATEGIES, make_strategy
from .suites import SEEDS, Item, Suite, set_suite, word_problem_suite

__all__ = [
    "CURVE_BUDGETS",
    "FunctionGrader",
    "Grid",
    "GridError",
    "InProcess",
    "Item",
    "Key",
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
    "measure",
    "run",
    "set_suite",
    "spread",
    "word_problem_suite",
    "summarize",
]
