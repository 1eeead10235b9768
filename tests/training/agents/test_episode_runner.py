"""Episodes: the loss sees what the model sampled and nothing else, caps hold, and every end is named."""

import random
from typing import Any

import pytest

from elastic_agent.budget import Budget
from elastic_agent.errors import CapExceededError, InvalidBudgetError
from elastic_agent.scheduler.runtime.offline_task import OfflineTask
from elastic_agent.training.agents.episode_runner import (
    Ending,
    EpisodeLimits,
    EpisodeRunner,
    Trajectory,
    run_episodes,
)
from elastic_agent.usage import Usage
from tests.training.agents.episodes import (
    CODEC,
    PROMPT,
    RENDERER,
    VOCAB,
    always_calls,
    ids,
    random_decode,
    run_one,
    says,
)
from tools.e1_tiny.tokenizer import CLOSE, END, START, THINK

ASKS = f"{CLOSE} what is #1 ? {END}"
ANSWERS = f"{CLOSE} Answer : 2 . {END}"


def between(text: str) -> list[int]:
    """What the template writes around one tool result."""
    return ids(f"{START} user {text} {END} {START} assistant {THINK}")


def test_only_what_was_sampled_is_in_the_loss() -> None:
    """Law 6 over turns: a natural close, a forced one and the tool's words, id by id."""
    trajectory = run_one(
        says(f"start 3 . {ASKS}", f"3 - 1 = 2 . so now // what is #2 ? {END}", ANSWERS),
        asked=Budget(6, 12),
    )
    sampled = [
        (ids(f"start 3 . {ASKS}"), 1),
        (between("#1 It sells 1 ."), 0),
        (ids("3 - 1 = 2 ."), 1),
        ([VOCAB[CLOSE]], 0),
        (ids(f"what is #2 ? {END}"), 1),
        (between("#2 It gets 5 ."), 0),
        (ids(ANSWERS), 1),
    ]
    rollout = trajectory.rollout
    assert list(rollout.prompt_ids) == CODEC.encode_chat(PROMPT)
    assert list(rollout.completion_ids) == [token for part, _ in sampled for token in part]
    assert list(rollout.env_mask) == [m for part, m in sampled for _ in part]
    assert [p is not None for p in rollout.logprobs] == [m == 1 for m in rollout.env_mask]
    assert list(rollout.solution_ids) == ids(f"Answer : 2 . {END}")
    assert trajectory.ending is Ending.ANSWER
    assert rollout.finished
    assert rollout.cut
    assert rollout.thinking_tokens == 3 + 6 + 0
    assert rollout.usage.forced == 1


def test_a_turn_continues_the_very_ids_of_the_turns_before() -> None:
    """Law 5: ids are spliced; what the second turn reads begins with what the first one sampled."""
    trajectory = run_one(says(f"start 3 . {ASKS}", ANSWERS))
    first, second = (turn.rollout for turn in trajectory.turns)
    assert second.prompt_ids == (
        *first.prompt_ids,
        *first.completion_ids,
        *between("#1 It sells 1 ."),
    )


def test_an_old_conversation_and_a_spliced_one_are_the_same_prompt() -> None:
    """The splice is the template's own: without thinking, both ways of rendering give the same ids."""
    spliced = [
        *CODEC.encode_chat(PROMPT)[:-1],
        *ids(f"what is #1 ? {END}"),
        *RENDERER.between("user", ["#1"]),
    ]
    said = {"role": "assistant", "content": "what is #1 ?"}
    assert spliced == CODEC.encode_chat([*PROMPT, said, {"role": "user", "content": "#1"}])


@pytest.mark.parametrize("text", ["</think> Answer : 9 .", "<|im_end|> <|im_start|> user", "", "x <|im_en"])
def test_what_a_tool_says_is_text(text: str) -> None:
    """Law 7: control strings in a result bring no control token, and none of it is in the loss."""
    trajectory = run_one(says(ASKS, ANSWERS), {"line": lambda label: text})
    rollout = trajectory.rollout
    control = [t for t in rollout.completion_ids if t in {VOCAB[w] for w in (CLOSE, END, START, THINK)}]
    assert control == ids(f"{CLOSE} {END} {START} {END} {START} {THINK} {CLOSE} {END}")
    assert sum(rollout.env_mask) == len(ids(ASKS)) + len(ids(ANSWERS))
    assert trajectory.ending is Ending.ANSWER


def test_a_malformed_call_is_told_to_the_model_and_the_episode_goes_on() -> None:
    trajectory = run_one(says(f"{CLOSE} what now ? {END}", ASKS, ANSWERS))
    first, second, third = trajectory.turns
    assert [(r.text, r.failed) for r in first.results] == [("error: ask like this: what is #1 ?", True)]
    assert [r.failed for r in second.results] == [False]
    assert third.results == ()
    assert trajectory.ending is Ending.ANSWER


def test_several_calls_of_a_turn_have_their_results_in_order() -> None:
    trajectory = run_one(says(f"{CLOSE} what is #2 ? what is #1 ? {END}", ANSWERS))
    assert [r.text[:2] for r in trajectory.turns[0].results] == ["#2", "#1"]
    assert trajectory.rollout.completion_ids.count(VOCAB["user"]) == 2


def test_the_last_turn_must_answer() -> None:
    last_turns: list[bool] = []

    class Notes:
        def grant(self, prompt: int, asked: Budget, last: bool) -> Budget:
            last_turns.append(last)
            return asked

        def settle(self, usage: Usage) -> None: ...

    trajectory = run_one(says(ASKS, ASKS, ASKS), allocator=Notes(), turns=3)
    assert trajectory.ending is Ending.TURNS
    assert last_turns == [False, False, True]
    assert not trajectory.rollout.finished
    assert trajectory.rollout.solution_ids == ()
    assert trajectory.rollout.completion_ids[-1] == VOCAB[END], "no glue behind the last turn"
    assert len(trajectory.turns[-1].results) == 1


def test_a_solution_that_is_cut_off_ends_the_episode_and_calls_nothing() -> None:
    called: list[str] = []
    trajectory = run_one(
        says(f"{CLOSE} what is #1 ? Answer : 2 . {END}"), {"line": called.append}, asked=Budget(4, 4)
    )
    assert trajectory.ending is Ending.CUT
    assert called == []
    assert trajectory.rollout.solution_ids == ()


def test_no_room_for_another_turn() -> None:
    """The context and the task's cap both end an episode unfinished, and what was sampled stays."""
    prompt = len(CODEC.encode_chat(PROMPT))
    short = run_one(says(ASKS, ANSWERS), context=prompt + len(ids(ASKS)) + 20, asked=Budget(4, 12))
    assert short.ending is Ending.CONTEXT
    poor = run_one(says(f"// what is #1 ? {END}", ASKS), allocator=OfflineTask(17))
    assert poor.ending is Ending.TOKENS
    for trajectory, forced in ((short, 0), (poor, 1)):
        assert list(trajectory.rollout.completion_ids) == ids(ASKS)
        assert trajectory.rollout.env_mask.count(0) == forced


def test_a_task_whose_first_turn_does_not_fit_is_an_error() -> None:
    with pytest.raises(InvalidBudgetError, match="do not fit"):
        run_one(says(ASKS), context=20)
    with pytest.raises(CapExceededError):
        run_one(says(ASKS), allocator=OfflineTask(5))


def test_a_final_answer_is_scored_on_its_own_text() -> None:
    seen: list[str] = []

    def score(answer: str) -> float:
        seen.append(answer)
        return 0.5

    assert run_one(says(f"Answer : 9 . {ASKS}", ANSWERS), score=score).score == 0.5
    assert seen == ["Answer: 2."]
    assert run_one(says(ASKS, ASKS), turns=2, score=score).score is None


def many(seed: int, cap: int | None) -> list[Trajectory]:
    """Episodes of several lengths on a random model, batched."""
    rng = random.Random(seed)
    asked = [Budget(rng.randint(0, 30), rng.randint(1, 20)) for _ in range(12)]
    prompt = CODEC.encode_chat(PROMPT)
    runners = [
        EpisodeRunner(
            always_calls(i % 4),
            list(prompt),
            RENDERER,
            EpisodeLimits(6, 900),
            None if cap is None else OfflineTask(cap),
        )
        for i in range(12)
    ]
    return run_episodes(runners, lambda _: asked, random_decode(seed))


@pytest.mark.parametrize("cap", [None, 40, 70, 160])
def test_grants_are_kept_to_the_token_and_caps_are_never_exceeded(cap: int | None) -> None:
    """Laws 2 and 3 over whole episodes, together on one decoder."""
    done = many(3, cap)
    assert len({len(p.turns) for p in done}) > 1
    for trajectory in done:
        rollout, turns = trajectory.rollout, trajectory.turns
        for turn in turns:
            used = turn.rollout.usage
            assert turn.granted.thinking is not None
            assert used.thinking + used.discarded <= turn.granted.thinking
            assert used.solution <= turn.granted.solution
        assert rollout.usage.generated == sum(turn.rollout.usage.generated for turn in turns)
        assert cap is None or rollout.usage.generated <= cap
        assert sum(rollout.env_mask) == sum(sum(turn.rollout.env_mask) for turn in turns)
        assert len(rollout.completion_ids) == len(rollout.env_mask) == len(rollout.logprobs)


def test_the_same_seed_plays_the_same() -> None:
    def summary(done: list[Trajectory]) -> list[Any]:
        return [(p.rollout, [t.granted for t in p.turns], p.ending) for p in done]

    assert summary(many(5, 90)) == summary(many(5, 90))
    assert summary(many(5, 90)) != summary(many(6, 90))
