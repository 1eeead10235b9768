"""A reward that writes down which processes of how many asked for it."""

import os
from pathlib import Path
from typing import Any

from tests.training.runs import easy_reward


def counted(**columns: Any) -> list[float]:
    with Path(os.environ["COUNTED"]).open("a") as file:
        file.write(f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}\n")
    return easy_reward(**columns)
