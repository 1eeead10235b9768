"""Every place for a number takes what it says and refuses the rest (`benchmarks/entry_points.py`)."""

from __future__ import annotations

from benchmarks.entry_points import ODD, WRONG, Entry, entries, measure


def test_odd_values_at_every_entry_point() -> None:
    """The whole table of odd values at each: none is accepted wrongly, crashes or is ignored."""
    every = list(entries())
    assert len(every) > 100
    assert len(ODD) > 60
    cases, wrong = measure(every, len(every) * len(ODD), seed=1)
    assert cases >= 5_000
    assert wrong == dict.fromkeys(WRONG, 0)


def test_careless_entry_points_are_caught() -> None:
    """Python's own int(), a check that forgets zero and one that ignores its value are told apart."""
    careless = [
        Entry("int()", lambda value: int(value), "integer", 0, 100),
        Entry("or", lambda value: int(value) or 7, "integer", 0, 100, medium="text"),
        Entry("ignored", lambda value: None, "real", 0, 100),
    ]
    for entry, outcome in zip(careless, ("accepted_wrongly", "accepted_wrongly", "silent"), strict=True):
        _, wrong = measure([entry], len(ODD), seed=1)
        assert wrong[outcome] > 0, entry.name
