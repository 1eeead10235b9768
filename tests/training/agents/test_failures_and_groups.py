"""Groups that are sampled again, and failures that are counted."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.training.agents.agent import AgentRun, make_agent
from elastic_agent.training.agents.episode import Episode
from elastic_agent.training.agents.result import EpisodeResult
from elastic_agent.training.agents.rollouts import EpisodesFailedError, Failures, Groups, moved
from elastic_agent.training.config.agent import AgentConfig
from tests.training.agents.scripted import specs


def agent() -> AgentRun:
    return make_agent(AgentConfig(run="lookups", caps={"tokens": [100, 1000]}))


def ended(rewards: list[float | None]) -> list[Episode]:
    found = []
    for spec, reward in zip(specs(len(rewards)), rewards, strict=True):
        result = None if reward is None else EpisodeResult(reward)
        found.append(Episode(spec, result=result, failure="it crashed" if reward is None else ""))
    return found


def groups(rewards: list[float | None], share: float, tries: int = 1) -> Groups:
    return Groups(agent(), 2, 7, [share] * len(rewards), specs(len(rewards)), tries)


def test_groups_without_signal_are_drawn_again_where_they_may_have_some() -> None:
    """All right: lower caps; none right: higher ones; a failed episode says nothing; a mixed group stays."""
    rewards: list[float | None] = [1, 1, 0, 0, 1, 0, 1, None, None, None]
    found = groups(rewards, 0.5)
    new = found.resample(ended(rewards))
    assert sorted(new) == [0, 1, 2, 3, 6, 7, 8, 9]
    middle = agent().caps_at(0.5).tokens or 0
    assert all((new[i].caps.tokens or 0) < middle for i in (0, 1, 6, 7))
    assert all((new[i].caps.tokens or 0) > middle for i in (2, 3))
    assert new[0].caps == new[1].caps, "a group shares its caps"
    assert len({new[i].seed for i in new}) == 8
    assert not {new[i].seed for i in new} & {spec.seed for spec in specs(10)}
    assert found.again == 4
    assert found.resample(ended(rewards)) == {}, "one try"


def test_drawing_again_follows_from_the_seed() -> None:
    rewards: list[float | None] = [0, 0, 1, 0]
    assert groups(rewards, 0.3).resample(ended(rewards)) == groups(rewards, 0.3).resample(ended(rewards))


@given(st.floats(0, 0.999), st.sampled_from([-1.0, 0.0, 1.0]), st.floats(0, 0.999))
def test_moved_shares_stay_in_range_and_go_the_right_way(share: float, better: float, draw: float) -> None:
    new = moved(share, better, draw)
    assert 0 <= new < 1
    if better:
        assert new <= share if better > 0 else new >= min(share, 1 - 1e-9)


def test_failures_are_told_with_their_rows_and_too_many_end_the_run() -> None:
    lines: list[str] = []
    failures = Failures(0.5, lines.append)
    failures.add(ended([1, None, 0, 1]))
    assert lines == ["row 2: it crashed"]
    noted = [replace(episode, notes=("2 call(s) were still running",)) for episode in ended([1, 1])]
    failures.add(noted)
    failures.add(noted)
    assert lines[1:] == ["row 1: 2 call(s) were still running"], "a note is said once"
    with pytest.raises(EpisodesFailedError, match=r"agent\.failures lets 50% fail"):
        failures.add(ended([None] * 9))
    assert lines[-1] == "and 6 more of 9 episodes failed"
