"""What the meter test does: its tasks, accounts and calls, from a seed, the same in every process."""

from __future__ import annotations

import random
from dataclasses import dataclass

from elastic_agent.scheduler.ledger.stores.protocol import Spec

PRICE = 400  # nano-dollars a token
LEASE = 2.0  # seconds
PATIENCE = 1.5  # seconds that a worker waits for a reply
JUMP = 2 * LEASE  # seconds that the store's clock jumps ahead
TASKS_PER_KEY, KEYS_PER_ORG = 4, 2


@dataclass(frozen=True)
class Task:
    """One task: its accounts from the root down, its calls' limits (thinking + solution), its answer's."""

    path: tuple[Spec, ...]
    calls: tuple[int, ...]
    answer: int

    @property
    def account(self) -> str:
        return self.path[-1].id

    @property
    def ids(self) -> list[str]:
        return [spec.id for spec in self.path]


def tasks(count: int, seed: int) -> list[Task]:
    """So many tasks. Keys and organisations have room for about half of what their tasks would use."""
    draw = random.Random(seed)
    made = []
    for n in range(count):
        per_org = TASKS_PER_KEY * KEYS_PER_ORG
        org = f"org{n // per_org}"
        key = f"{org}/key{n // TASKS_PER_KEY % KEYS_PER_ORG}"
        path = [
            Spec(org, tokens=per_org * 260, nano=per_org * 250 * PRICE),
            Spec(key, tokens=TASKS_PER_KEY * 300, window="day"),
            Spec(f"{key}/task{n}", tokens=480, nano=450 * PRICE),
        ]
        if draw.random() < 0.3:
            path.append(Spec(f"{key}/task{n}/sub", tokens=300))
        calls = tuple(draw.randint(40, 200) for _ in range(draw.randint(2, 4)))
        made.append(Task(tuple(path), calls, draw.randint(30, 80)))
    return made


def caps(plan: list[Task]) -> dict[str, tuple[int | None, int | None]]:
    """Every account's caps, in tokens and nano-dollars: what the meter judges by."""
    return {spec.id: (spec.tokens, spec.nano) for task in plan for spec in task.path}
