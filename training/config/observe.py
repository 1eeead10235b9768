"""The sections of a training config about what a run shows while it runs."""

from __future__ import annotations

from elastic_agent.config_files import Count, Natural, Section

from .budgets import Several


class ValidationConfig(Section):
    """Problems that are held out, answered at fixed budgets between batches; in metrics.csv and the plot."""

    every: Natural = 0
    """Batches between two validations; 0: none."""
    budgets: Several = (None,)
    """Thinking budgets; null is unlimited."""
    solution: Count | None = None
    """Solution budget; null: the largest of `budgets` of the run."""
    problems: Count = 64
    """Problems held out: of `data`, and never trained on; of an endless source, further ones."""
    samples: Count = 1
    """Samples of each problem at each budget."""

    @property
    def calls(self) -> int:
        """Calls of a validation, over all devices."""
        return len(self.budgets) * self.problems * self.samples if self.every else 0


class SamplesConfig(Section):
    """Rollouts to read, in samples.jsonl: prompt, thinking, solution, budget, reward."""

    every: Natural = 10
    """Batches between two tables; 0: none."""
    rows: Count = 4
    """Rollouts of a table: the first of the batch's groups."""
