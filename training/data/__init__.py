"""Data for training and evaluation: sets by name from the hub or from a file, in one schema, without leaks.

    problems = load("deepscaler")                          # from the Hugging Face hub
    problems = load("aime24", path="data/aime.json")       # the same set from a file or a folder
    problems = load(path="mine.jsonl")                     # your own
    kept = decontaminate(deduplicate(problems).kept, load("aime24"))
    print(kept)                                            # what was removed and why
    dataset = as_dataset(kept.kept)                        # what TRL trains on

`elastic_agent.training.data.sources` lists the sets and says how far each format was checked;
`load` says what your own file must hold. Nothing is shipped: every set comes from its owner.
"""

from .dedup import Deduplicated, Removal, decontaminate, deduplicate
from .load import generate, load
from .schema import (
    Case,
    DataWarning,
    Problem,
    as_dataset,
    dataset_of,
    prompt_of,
    tests_json,
    to_rows,
)
from .sources import SOURCES, Source, source_named

__all__ = [
    "SOURCES",
    "Case",
    "DataWarning",
    "Deduplicated",
    "Problem",
    "Removal",
    "Source",
    "as_dataset",
    "dataset_of",
    "decontaminate",
    "deduplicate",
    "generate",
    "load",
    "prompt_of",
    "source_named",
    "tests_json",
    "to_rows",
]
