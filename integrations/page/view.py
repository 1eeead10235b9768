"""What the live page knows: the scheduler's events folded into trees of tasks and calls.

Bounded: finished trees age out, a task keeps its latest calls, and there are most trees, refusals and curve
points. Every tree has an owner; whoever asks for changes gets those of one owner. No prompt or answer is in
an event, so none can be here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from elastic_agent.budget import NANO
from elastic_agent.scheduler.runlog.events import GRANTS, Event

from .learnt import Learnt, Spending

MOST_TREES = 1000
KEPT_TREES = 200
KEPT_SECONDS = 600.0
KEPT_CALLS = 40
KEPT_REFUSALS = 50
MOST_CHILDREN = 200
UNITS = ("tokens", "usd")


@dataclass(slots=True, eq=False)
class Node:
    """A task of a tree.

    Attributes:
        held: by unit, of its own running calls and parts; `spent` likewise, without its children's.
        calls: the latest, by number, as the page shows them.
        holds: what each running call holds.
        parts: what is held for other things than calls, as [tokens, nano-dollars].
        ends: when its time is up, on the clock of `apply`; None: no deadline.
    """

    id: int
    name: str
    caps: dict[str, float]
    opened: float
    ends: float | None
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(UNITS, 0.0))
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    holds: dict[int, dict[str, float]] = field(default_factory=dict)
    parts: list[list[int]] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    state: str = "open"
    error: str | None = None
    hidden: int = 0

    def under(self) -> Iterator[Node]:
        """The task and all below it."""
        yield self
        for child in self.children:
            yield from child.under()

    def held(self) -> dict[str, float]:
        """What its own calls and parts hold, by unit."""
        return {
            "tokens": sum(h["tokens"] for h in self.holds.values()) + sum(p[0] for p in self.parts),
            "usd": sum(h["usd"] for h in self.holds.values()) + sum(p[1] for p in self.parts) / NANO,
        }

    def to_dict(self, now: float) -> dict[str, Any]:
        """As the page gets it: sums are those of the whole subtree."""
        nodes = list(self.under())
        held = [node.held() for node in nodes]
        return {
            "id": self.id,
            "name": self.name,
            "caps": self.caps,
            "spent": {unit: sum(node.spent[unit] for node in nodes) for unit in UNITS},
            "held": {unit: sum(one[unit] for one in held) for unit in UNITS},
            "ends_in": None if self.ends is None or self.state == "closed" else round(self.ends - now, 2),
            "state": self.state,
            "error": self.error,
            "hidden": self.hidden,
            "calls": list(self.calls.values()),
            "children": [child.to_dict(now) for child in self.children],
        }


@dataclass(slots=True, eq=False)
class Tree:
    """An outermost task with all below it; `version` grows with every change."""

    owner: str
    root: Node
    version: int = 0
    closed_at: float | None = None


class View:
    """See the module.

    Args:
        owner_of: whose a tree is, from the `key` of its outermost task.
    """

    def __init__(self, owner_of: Callable[[str], str] = str) -> None:
        self._owner_of = owner_of
        self._trees: dict[int, Tree] = {}
        self._nodes: dict[int, tuple[Tree, Node]] = {}
        self._gone: deque[tuple[int, str, int]] = deque(maxlen=2 * MOST_TREES)
        self._versions = count(1)
        self._refusals: deque[tuple[int, str, dict[str, Any]]] = deque(maxlen=KEPT_REFUSALS)
        self.learnt, self.spending = Learnt(), Spending()
        self.version = 0

    def apply(self, event: Event, now: float) -> None:
        """Fold one event; those of tasks that are not shown are ignored."""
        name = event["event"]
        if name == "task_opened":
            self._open(event, now)
        elif name == "task_refused":
            self._refuse(self._owner(event), event)
        elif (found := self._nodes.get(event.get("id", 0))) is not None:
            tree, node = found
            if "call" in event:
                self._call(tree, node, event, now)
            else:
                self._task(tree, node, event, now)
            self._touch(tree)

    def age(self, now: float) -> None:
        """Let go of finished trees: the old ones, and the oldest beyond the number that is kept."""
        finished = [tree for tree in self._trees.values() if tree.closed_at is not None]
        finished.sort(key=lambda tree: tree.closed_at or 0.0)
        for at, tree in enumerate(finished):
            old = now - (tree.closed_at or 0.0) > KEPT_SECONDS
            if old or at < len(finished) - KEPT_TREES:
                self._drop(tree)
        self.spending.age(now)

    def changes(self, owner: str | None, since: int, now: float) -> dict[str, Any]:
        """What changed after a version; 0: everything. `owner` None: of all owners."""

        def may_see(whose: str) -> bool:
            return owner is None or whose == owner

        trees = [tree for tree in self._trees.values() if may_see(tree.owner)]
        return {
            "version": self.version,
            "trees": [tree.root.to_dict(now) for tree in trees if tree.version > since],
            "gone": [id for version, whose, id in self._gone if version > since and may_see(whose)],
            "open": sum(tree.closed_at is None for tree in trees),
            "refusals": [one for version, whose, one in self._refusals if version > since and may_see(whose)],
            "spending": self.spending.to_list(owner),
            "curves": self.learnt.to_list(owner, since),
        }

    # Inside

    def _owner(self, event: Event) -> str:
        parent = self._nodes.get(event.get("parent_id") or 0)
        return parent[0].owner if parent is not None else self._owner_of(event["key"])

    def _touch(self, tree: Tree) -> None:
        tree.version = self.version = next(self._versions)

    def _open(self, event: Event, now: float) -> None:
        seconds = event["caps"].get("seconds")
        ends = None if seconds is None else now + seconds
        node = Node(event["id"], event["task"], event["caps"], now, ends)
        parent_id = event["parent_id"]
        if parent_id is None:
            if len(self._trees) >= MOST_TREES:
                self._make_room()
            if len(self._trees) >= MOST_TREES:
                return  # more tasks are open than a page can show
            tree = self._trees[node.id] = Tree(self._owner_of(event["key"]), node)
        elif (above := self._nodes.get(parent_id)) is not None:
            tree, parent = above
            if len(parent.children) >= MOST_CHILDREN:
                self._fold_child(parent)
            parent.children.append(node)
        else:
            return
        self._nodes[node.id] = tree, node
        self._touch(tree)

    def _fold_child(self, parent: Node) -> None:
        """Keep only the sums of the oldest finished child."""
        for child in parent.children:
            if child.state == "closed":
                parent.children.remove(child)
                for node in child.under():
                    parent.hidden += len(node.calls) + node.hidden
                    for unit in UNITS:
                        parent.spent[unit] += node.spent[unit]
                    self._nodes.pop(node.id, None)
                return

    def _make_room(self) -> None:
        finished = [tree for tree in self._trees.values() if tree.closed_at is not None]
        if finished:
            self._drop(min(finished, key=lambda tree: tree.closed_at or 0.0))

    def _drop(self, tree: Tree) -> None:
        del self._trees[tree.root.id]
        for node in tree.root.under():
            self._nodes.pop(node.id, None)
        self.version = next(self._versions)
        self._gone.append((self.version, tree.owner, tree.root.id))

    def _task(self, tree: Tree, node: Node, event: Event, now: float) -> None:
        name = event["event"]
        if name == "set_aside":
            node.parts.append(event["amount"])
        elif name == "part_settled":
            tokens, nano = event["actual"]
            fits = (part for part in node.parts if part[0] >= tokens and part[1] >= nano)
            if (part := next(fits, None)) is not None:
                node.parts.remove(part)
            self._spend(tree, node, {"tokens": tokens, "usd": nano / NANO}, now)
        elif name == "task_closing":
            node.state = "closing"
        elif name == "task_closed":
            node.state, node.error = "closed", event["error"]
            node.holds.clear()
            node.parts.clear()
            if node is tree.root:
                tree.closed_at = now

    def _call(self, tree: Tree, node: Node, event: Event, now: float) -> None:
        name, number = event["event"], event["call"]
        call = node.calls.get(number)
        if call is None and name == "feedback":
            return  # on a call that is no longer shown
        if call is None:
            call = node.calls[number] = {"n": number, "kind": event["kind"], "label": event["label"]}
            call |= {"model": event["model"], "state": "asked", "thinking": [], "solution": None}
            self._forget_calls(node)
        if name == "waiting":
            call |= {"state": "waiting", "why": event["reason"]}
        elif name in GRANTS:
            self._grant(tree, node, call, event)
        elif name == "limit_reached":
            call |= {"state": "solution", "thought": event["used"]}
        elif name == "refused":
            call |= {"state": "refused", "why": event["reason"]}
            self._refuse(tree.owner, event)
        elif name == "withdrawn":
            call["state"] = "withdrawn"
        elif name == "settled":
            self._settle(tree, node, call, event, now)
        elif name == "feedback":
            call["correct"] = event["correct"]
            limit = call["thinking"][-1] if call["thinking"] else 0
            version = next(self._versions)
            self.learnt.judged(tree.owner, event["model"], event["kind"], limit, event["correct"], version)

    def _grant(self, tree: Tree, node: Node, call: dict[str, Any], event: Event) -> None:
        limit = event["granted"]["thinking"]
        if not call["thinking"] or call["thinking"][-1] != limit:
            call["thinking"] = [*call["thinking"], limit][-4:]
        call |= {"solution": event["granted"]["solution"], "why": event["reason"], "last": event["last"]}
        if event["event"] == "grant":
            call["state"] = "thinking" if limit else "solution"
        node.holds[call["n"]] = event["hold"]
        chance = event["why"].get("success")
        if chance is not None:
            version = next(self._versions)
            self.learnt.expected(tree.owner, event["model"], event["kind"], limit, chance, version)

    def _settle(self, tree: Tree, node: Node, call: dict[str, Any], event: Event, now: float) -> None:
        node.holds.pop(call["n"], None)
        used = event["used"]
        unsent = event["outcome"] == "refunded"
        state = "answered" if event["answered"] else "unsent" if unsent else "stopped"
        call |= {"state": state, "thought": used.get("thinking", 0), "wrote": used.get("solution", 0)}
        call |= {"seconds": event["seconds"], "cut": used.get("thinking_end") == "budget"}
        call["charged"] = event["charged"]
        self._spend(tree, node, event["charged"], now)

    def _spend(self, tree: Tree, node: Node, amount: dict[str, float], now: float) -> None:
        for unit in UNITS:
            node.spent[unit] += amount[unit]
        self.spending.add(tree.owner, amount, now)

    def _forget_calls(self, node: Node) -> None:
        """Of many calls the latest are kept, and all that are not over."""
        for number in list(node.calls)[: max(0, len(node.calls) - KEPT_CALLS)]:
            if number not in node.holds and node.calls[number]["state"] not in ("asked", "waiting"):
                del node.calls[number]
                node.hidden += 1

    def _refuse(self, owner: str, event: Event) -> None:
        self.version = next(self._versions)
        kept = {name: event.get(name) for name in ("task", "call", "kind", "error", "reason")}
        self._refusals.append((self.version, owner, {"n": self.version, **kept}))
