"""The in-process backend and its decoder: batches that don't show, parked rows, cancels, sampling."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_agent.backends.base import GREEDY, Sampling, TokenRequest
from elastic_agent.backends.decoder import Sampled
from elastic_agent.backends.load import load_backend
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.backends.transformers.decode import BatchDecoder, _Row, sample
from elastic_agent.budget import Budget
from elastic_agent.errors import BackendError, UnknownModelError
from elastic_agent.generation.call import Call
from elastic_agent.generation.generate import generate
from elastic_agent.generation.machine_runner import run_batch
from elastic_agent.generation.phases.two_phase import TwoPhase
from tests.core.backends.models import codec, random_backend, random_model

VOCABULARY = random_model().config.vocab_size


def plain(prompt: Sequence[int], tokens: int, stops: frozenset[int] = frozenset()) -> list[int]:
    """Greedy ids, the naive way: the whole sequence is read again for every token."""
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + tokens and not (len(ids) > len(prompt) and ids[-1] in stops):
            ids.append(int(random_model()(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


class Desk:
    """A decoder with a book of who asked for what and got what."""

    def __init__(self, rows: int) -> None:
        self.decoder = BatchDecoder(random_model(), max_rows=rows)
        self.asked: dict[int, tuple[tuple[int, ...], int]] = {}
        self.got: dict[int, list[Sampled]] = {}

    def ask(self, prompt: Sequence[int], tokens: int) -> int:
        key = self.decoder.add(TokenRequest(tuple(prompt), tokens, frozenset(), GREEDY))
        self.asked[key], self.got[key] = (tuple(prompt), tokens), []
        return key

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            for one in self.decoder.step():
                self.got[one.key].append(one)

    def drain(self) -> None:
        while len(self.decoder):
            self.step()

    def ids(self, key: int) -> list[int]:
        return [one.token for one in self.got[key]]


prompts = st.lists(st.integers(6, 9), min_size=1, max_size=12)  # few letters: many common beginnings


@settings(max_examples=40)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(prompts, st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=8),
    st.data(),
)
def test_rows_get_what_they_get_alone(
    rows: int, jobs: list[tuple[list[int], int, int]], data: st.DataObject
) -> None:
    """Law 3, batched or not: whatever else joins, leaves, is cancelled, parked or continued, a row's greedy
    ids are those of the model alone."""
    desk = Desk(rows)
    for prompt, tokens, steps in jobs:
        desk.ask(prompt, tokens)
        desk.step(steps)
        old = data.draw(st.sampled_from(sorted(desk.asked)))
        what = data.draw(st.sampled_from(["cancel", "continue", "nothing"]))
        if what == "cancel":
            desk.decoder.cancel(old)
            desk.asked[old] = (desk.asked[old][0], len(desk.got[old]))
        elif what == "continue":
            desk.ask((*desk.asked[old][0], *desk.ids(old), 8), 4)
    desk.drain()
    for key, (prompt, tokens) in desk.asked.items():
        assert desk.ids(key) == plain(prompt, tokens)


def test_parked_rows_survive_new_slots() -> None:
    """Law 3: keys and values of a parked row move with it when later rows need more slots than there were."""
    desk = Desk(64)
    first = [desk.ask([6, 7, 8, 9, 10 + i], 3) for i in range(16)]
    desk.drain()
    again = [desk.ask((*desk.asked[key][0], *desk.ids(key), 8), 4) for key in first[:4]]
    desk.step()
    [desk.ask([20 + i, 7], 3) for i in range(20)]
    desk.step(2)
    again += [desk.ask((*desk.asked[key][0], *desk.ids(key), 8), 4) for key in first[4:]]
    desk.drain()
    for key in again:
        assert desk.ids(key) == plain(*desk.asked[key])


def test_the_head_reads_no_view_with_gaps() -> None:
    """Prompts of one length, too: on such a view a head in bfloat16 took 7.5 s in place of 0.02 (151,936
    words, 32 rows, two cores)."""
    desk, whole = Desk(16), []
    head = random_model().get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: whole.append(inputs[0].is_contiguous()))
    for first in range(6, 12):
        desk.ask([first, 7, 8], 3)
    desk.drain()
    hook.remove()
    assert whole == [True, True, True]


def test_prompts_of_all_lengths_make_one_rows_logits_each() -> None:
    """Read together, they are as in a batch of their own, and the head computes one position a row."""
    desk, positions = Desk(16), []
    head = random_model().get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, logits: positions.append(logits[..., 0].numel()))
    keys = [desk.ask([6 + i % 4 for i in range(length)], 2) for length in range(3, 15)]
    desk.drain()
    hook.remove()
    assert positions == [12, 12]
    assert [desk.ids(key) for key in keys] == [plain(*desk.asked[key]) for key in keys]


def test_a_second_pass_reads_only_what_is_new() -> None:
    """A request that continues a parked row says so in `cached`; one that was cut while it ran ahead too."""
    desk = Desk(4)
    first = desk.ask([6, 7, 8], 5)
    desk.drain()
    prompt = (6, 7, 8, *desk.ids(first))
    second = desk.ask((*prompt, 9), 3)
    desk.drain()
    assert desk.got[second][0].cached == len(prompt) - 1  # the last token had not been read
    assert [one.cached for one in desk.got[second][1:]] == [0, 0]
    cut = desk.ask((*prompt[:6], 11, 12), 2)
    desk.drain()
    assert desk.got[cut][0].cached == 6
    assert desk.ids(cut) == plain(*desk.asked[cut])


@contextmanager
def tokens_read() -> Iterator[list[tuple[int, int]]]:
    """The (rows, new tokens) of each forward pass of the random model."""
    shapes: list[tuple[int, int]] = []
    hook = random_model().register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.mark.parametrize("size", [2, 5])
def test_a_group_reads_its_prompt_once(size: int) -> None:
    """Requests that join together with one prompt: one row reads it, the others get its keys and values, and
    each goes on as it would alone; a parked row is continued by one of them, and read by all."""
    desk = Desk(16)
    one, other = [6, 7, 8, 9, 10, 11], [9, 8, 7]
    groups = [desk.ask(prompt, 4 + i) for i in range(size) for prompt in (one, other)]
    with tokens_read() as shapes:
        desk.step()
        assert shapes == [(2, len(one))]
        desk.step()
        assert shapes[1:] == [(2 * size, 1)]
    assert [desk.got[key][0].cached for key in groups] == [0, 0] + [len(one) - 1, len(other) - 1] * (size - 1)
    desk.drain()
    again = (*one, *desk.ids(groups[-2]), 8)  # of the row that ran longest
    seconds = [desk.ask(again, 3) for _ in range(3)]
    with tokens_read() as shapes:
        desk.step()
    assert shapes == [(1, 2)]  # the last token of the pass before, and the new one
    desk.drain()
    for key in (*groups, *seconds):
        assert desk.ids(key) == plain(*desk.asked[key])


def test_a_group_larger_than_the_decoder() -> None:
    """Rows that find no slot wait, and read the prompt themselves."""
    desk = Desk(3)
    keys = [desk.ask([6, 7, 8, 9], 2 + i) for i in range(7)]
    desk.drain()
    for key in keys:
        assert desk.ids(key) == plain(*desk.asked[key])


def test_a_group_draws_with_its_own_seeds() -> None:
    """The first tokens of a group differ: each row draws its own from the logits that they share."""
    drawn = [Sampling(1.5, 1.0, seed=seed, logprobs=True) for seed in range(12)]

    def decode(samplings: Sequence[Sampling]) -> list[list[tuple[int, float | None]]]:
        decoder = BatchDecoder(random_model(), max_rows=16)
        keys = [decoder.add(TokenRequest((6, 7, 8, 9), 6, frozenset(), s)) for s in samplings]
        got: dict[int, list[tuple[int, float | None]]] = {key: [] for key in keys}
        while len(decoder):
            for one in decoder.step():
                got[one.key].append((one.token, one.logprob))
        return [got[key] for key in keys]

    together = decode(drawn)
    assert len({row[0][0] for row in together}) > 3
    for row, sampling in zip(together, drawn, strict=True):
        (alone,) = decode([sampling])
        assert [token for token, _ in row] == [token for token, _ in alone]
        assert [p for _, p in row] == pytest.approx([p for _, p in alone], abs=1e-4)


def test_the_oldest_parked_row_gives_way() -> None:
    """A slot for a new row is taken from the row that has been parked longest."""
    desk = Desk(3)
    keys = [desk.ask([10 * (i + 1), 7, 8], 1 + i) for i in range(3)]
    desk.drain()  # they end one after the other
    desk.ask([50, 51], 1)
    desk.drain()
    newest = desk.ask((*desk.asked[keys[2]][0], *desk.ids(keys[2]), 9), 1)
    desk.drain()
    oldest = desk.ask((*desk.asked[keys[0]][0], *desk.ids(keys[0]), 9), 1)
    desk.drain()
    assert desk.got[newest][0].cached > 0
    assert desk.got[oldest][0].cached == 0


BUDGETS = [Budget(0, 3), Budget(1, 1), Budget(5, 9), Budget(30, 2), Budget(13, 13), Budget(2, 40)]


def two_calls(prompt: Sequence[int], budget: Budget) -> list[int]:
    """The plain reference: think, close, solve."""
    markers = codec().markers
    stops = markers.eos_ids | set(markers.close_ids)
    out = plain(prompt, budget.thinking or 0, stops) if budget.thinking else []
    if out and out[-1] in markers.eos_ids:
        out.pop()
    if out[-1:] != list(markers.close_ids):
        out += markers.close_ids
    return out + plain([*prompt, *out], budget.solution, markers.eos_ids)


async def test_calls_with_different_budgets_together() -> None:
    """Law 3 on a real decoder: each call is exact and gets the same ids as alone, token for token."""
    backend = random_backend(max_rows=4)
    prompt = codec().encode_chat([{"role": "user", "content": "How many apples are left?"}])
    results = await asyncio.gather(*(generate(backend, prompt, b, sampling=GREEDY) for b in BUDGETS))
    for budget, result in zip(BUDGETS, results, strict=True):
        assert list(result.output_ids) == two_calls(prompt, budget)
        assert result.usage.thinking <= (budget.thinking or 0)
    assert sum(r.usage.metered_output for r in results) == backend.meter.output
    assert sum(r.usage.metered_input for r in results) == backend.meter.input
    assert any(r.usage.cached > 0 for r in results)
    await backend.aclose()


def test_run_batch_is_the_same_machine() -> None:
    """What training measures is what is served: the same ids, through the batch driver; and its seeds make
    every machine's draws its own, whatever is beside it."""
    prompt = codec().encode_chat([{"role": "user", "content": "How many apples are left?"}])
    markers = codec().markers

    def machines(budgets: Sequence[Budget]) -> list[TwoPhase]:
        return [TwoPhase(prompt, b, markers, markers.opening(prompt)) for b in budgets]

    greedy = machines(BUDGETS)
    run_batch(BatchDecoder(random_model(), max_rows=3), greedy, GREEDY)
    for budget, machine in zip(BUDGETS, greedy, strict=True):
        assert machine.output_ids == two_calls(prompt, budget)
    drawn, first = machines(BUDGETS), machines(BUDGETS[:1])
    run_batch(BatchDecoder(random_model()), drawn, Sampling(1.5, 1.0, seed=4, logprobs=True))
    run_batch(BatchDecoder(random_model()), first, Sampling(1.5, 1.0, seed=4, logprobs=True))
    assert first[0].output_ids == drawn[0].output_ids
    for machine in drawn:
        assert [p is None for p in machine.logprobs] == [not s for s in machine.sampled]


async def test_a_slow_row_holds_nobody_back() -> None:
    """A short call ends while a long one beside it, begun earlier, is still running."""
    backend = random_backend()
    slow = Call(backend, [6, 7, 8], Budget(0, 900), sampling=GREEDY)
    async with aclosing(slow.stream()) as events:
        async for _ in events:
            if slow.usage.solution == 3:
                short = await generate(backend, [6, 7, 9], Budget(0, 2), sampling=GREEDY)
                break
        assert short.usage.solution <= 2
        assert slow.machine.solution_end is None
    await backend.aclose()


async def test_cancelled_rows_are_taken_out() -> None:
    """Law 2: a closed stream's row leaves before the next token, the meter stands still, a slot is free."""
    backend = random_backend(max_rows=1)
    for _ in range(3):
        request = TokenRequest((6, 7, 8), 900, frozenset(), GREEDY)
        async with aclosing(backend.stream(request)) as stream:
            await anext(stream)
        after = request.receipt.output
        result = await generate(backend, [6, 7, 9], Budget(0, 2), sampling=GREEDY)  # needs that one slot
        assert request.receipt.output == after
        assert after is not None
        assert after < 900
        assert result.usage.solution <= 2
    assert backend.meter.output < 900
    await backend.aclose()


async def test_an_exception_in_the_decoder() -> None:
    """A step that fails ends its streams with a BackendError, and the worker serves the next one."""
    backend = random_backend()

    def fails() -> list[Sampled]:
        raise ValueError("out of memory, say")

    backend._decoder.step = fails  # type: ignore[method-assign, union-attr]
    call = Call(backend, [6, 7, 8], Budget(3, 3))
    with pytest.raises(BackendError, match="out of memory"):
        _ = [event async for event in call]
    assert call.usage.metered_output == 0
    assert (await generate(backend, [6, 7, 8], Budget(3, 3))).usage.solution > 0
    await backend.aclose()


def test_a_reader_whose_loop_is_gone() -> None:
    """An event loop that was closed under a running stream harms nobody else: its row is dropped."""
    backend = random_backend(max_rows=1)
    loop = asyncio.new_event_loop()
    stream = backend.stream(TokenRequest((6, 7, 8), 900, frozenset(), GREEDY))
    loop.run_until_complete(anext(stream))
    loop.close()
    result = asyncio.run(generate(backend, [6, 7, 9], Budget(0, 2), sampling=GREEDY))
    assert result.usage.solution > 0
    assert backend.meter.output < 900
    asyncio.run(backend.aclose())
    with pytest.raises(RuntimeError):
        loop.run_until_complete(stream.aclose())


def test_the_worker_goes_with_the_backend() -> None:
    """A backend that nobody holds is collected, its model with it, and its thread ends."""
    backend = random_backend()
    asyncio.run(generate(backend, [6, 7, 8], Budget(2, 2)))
    worker, ref = backend._worker, weakref.ref(backend)
    assert worker is not None
    del backend
    gc.collect()
    worker.join(timeout=30)
    assert not worker.is_alive()
    assert ref() is None


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, 1.0), 12),
        (Sampling(0.6, 1.0), 12),
        (Sampling(1.0, 0.8), None),
        (Sampling(1.3, 1.0, top_k=4), 4),
        (Sampling(0.9, 0.7, top_k=6), None),
    ],
)
def test_tokens_are_drawn_as_the_distribution_says(sampling: Sampling, kept: int | None) -> None:
    """Temperature, then top-k, then top-p of what is left, as in transformers and vLLM: chi-square over
    20,000 draws with a fixed seed."""
    n = 20_000
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 1.5
    probs = (logits / sampling.temperature).softmax(-1).tolist()
    order = sorted(range(12), key=lambda i: -probs[i])[: sampling.top_k or 12]
    whole, nucleus = sum(probs[i] for i in order), 0.0
    allowed: list[int] = []
    for i in order:
        if nucleus >= sampling.top_p:
            break
        allowed.append(i)
        nucleus += probs[i] / whole
    assert kept is None or len(allowed) == kept
    row = _Row(0, [], TokenRequest((1,), 1, sampling=sampling))
    drawn = sample(logits.expand(n, -1), [row] * n, torch.Generator().manual_seed(11))
    counts = torch.bincount(drawn, minlength=12).tolist()
    assert {i for i, count in enumerate(counts) if count} <= set(allowed)
    share = sum(probs[i] for i in allowed)
    expected = {i: n * probs[i] / share for i in allowed}
    chi_square = sum((counts[i] - e) ** 2 / e for i, e in expected.items())
    freedom = len(allowed) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5 + 4


DRAWN = [3030, 1842, 3003, 2603, 719, 3462, 1517, 4610, 4905, 4251, 3573, 4833, 1184, 727, 1942, 1093, 3101]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_seeds_draw_what_they_always_drew(device: str) -> None:
    """The ids of fixed seeds and logits, as they were when whole vocabularies went to the host; the same on
    every device, to which only [rows] numbers go, and from which only [rows] ids come."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    settings = [
        Sampling(1.0, 1.0),
        Sampling(0.6, 0.95),
        Sampling(1.0, 1.0, top_k=20),
        Sampling(0.0, 1.0),
        Sampling(1.3, 0.4),
    ]
    logits = torch.randn(len(DRAWN), 5000, generator=torch.Generator().manual_seed(3)) * 2.5
    rows = [_Row(i, [], TokenRequest((1,), 1, sampling=settings[i % 5])) for i in range(len(DRAWN))]
    for i, row in enumerate(rows):
        row.generator = torch.Generator().manual_seed(100 + i) if i % 4 else None
    drawn = sample(logits.to(device), rows, torch.Generator().manual_seed(11))
    assert drawn.device.type == device
    assert drawn.tolist() == DRAWN


def test_no_vocabulary_goes_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step takes from the device is one number a row: neither logits nor a sorted vocabulary."""
    taken: list[int] = []
    plainly = torch.Tensor.tolist

    def tolist(self: torch.Tensor) -> object:
        taken.append(self.numel())
        return plainly(self)

    def refuse(self: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        raise AssertionError(f"{tuple(self.shape)} to the host")

    decoder = BatchDecoder(random_model(), max_rows=8)
    for seed in range(6):
        decoder.add(TokenRequest((6, 7, 8), 3, frozenset(), Sampling(1.0, 0.9, seed=seed, logprobs=True)))
    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    monkeypatch.setattr(torch.Tensor, "cpu", refuse)
    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    while len(decoder):
        decoder.step()
    assert max(taken) == 6


async def test_a_model_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dtype` says the precision; by default a CPU that has bfloat16 uses it for models that are stored in it
    and not small. The cache follows, budgets hold, and log-probs stay near the model's own."""
    from tools.e1_tiny.model import new_model, save_model

    model = new_model(hidden=64, layers=2, heads=2, mlp=128)
    save_model(model, tmp_path)
    module = "elastic_agent.backends.transformers.backend"
    assert TransformersBackend.load(tmp_path).module.dtype == torch.float32
    monkeypatch.setattr(f"{module}._SMALL", 1000)
    monkeypatch.setattr(f"{module}.has_bfloat16", lambda: False)
    assert TransformersBackend.load(tmp_path).module.dtype == torch.float32
    monkeypatch.setattr(f"{module}.has_bfloat16", lambda: True)
    assert TransformersBackend.load(tmp_path).module.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="float32, bfloat16, not 'int8'"):
        TransformersBackend.load(tmp_path, dtype="int8")
    backend = TransformersBackend.load(tmp_path, dtype="bfloat16")
    result = await generate(backend, [6, 7, 8], Budget(5, 5), sampling=replace(GREEDY, logprobs=True))
    assert isinstance(backend._decoder, BatchDecoder)
    assert backend._decoder._slots.keys[0].dtype == torch.bfloat16
    assert max(result.usage.thinking, result.usage.solution) <= 5
    with torch.inference_mode():
        ids = torch.tensor([[*result.prompt_ids, *result.output_ids]])
        every = model.eval()(input_ids=ids).logits[0].log_softmax(-1)
    for i, (token, p) in enumerate(zip(result.output_ids, result.logprobs, strict=True)):
        if p is not None:
            assert p == pytest.approx(float(every[len(result.prompt_ids) + i - 1, token]), abs=0.1)
    await backend.aclose()


async def test_logprobs_are_the_models() -> None:
    """A log-prob is the model's own at temperature 1, forced tokens have none (law 6)."""
    backend = random_backend()
    sampling = replace(GREEDY, logprobs=True)
    result = await generate(backend, [6, 7, 8], Budget(3, 3), sampling=sampling)
    ids = [*result.prompt_ids, *result.output_ids]
    with torch.inference_mode():
        every = random_model()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    for i, (token, p) in enumerate(zip(result.output_ids, result.logprobs, strict=True)):
        if result.sampled[i]:
            assert p == pytest.approx(float(every[len(result.prompt_ids) + i - 1, token]), abs=1e-3)
        else:
            assert p is None
    await backend.aclose()


async def test_ids_outside_the_vocabulary() -> None:
    """A prompt id that the model lacks is a BackendError before anything is metered."""
    backend = random_backend()
    for bad in ((VOCABULARY,), (-1,), (6, 10**9)):
        with pytest.raises(BackendError, match="vocabulary"):
            _ = [chunk async for chunk in backend.stream(TokenRequest(bad, 1))]
    with pytest.raises(BackendError, match="guided_regex"):
        _ = [c async for c in backend.stream(TokenRequest((6,), 1, extra={"guided_regex": "x"}))]
    assert backend.meter.requests == 0


def test_models_that_are_not_there() -> None:
    """Bad input: an unknown name says what there is; a folder without a model says so."""
    with pytest.raises(UnknownModelError, match="no model called 'e2-huge'"):
        load_backend("e2-huge")
    with pytest.raises(UnknownModelError):
        load_backend("./no/such/folder")


def test_sliding_windows_are_refused() -> None:
    """A model whose attention the decoder does not keep is refused when it is made, not answered wrongly."""

    class Config:
        layer_types = ("sliding_attention", "full_attention")

    class Model:
        config = Config()

    with pytest.raises(NotImplementedError, match="sliding_attention"):
        BatchDecoder(Model())


def test_a_backend_takes_a_threads_number() -> None:
    """A small model runs on one thread unless told otherwise."""
    assert random_backend()._threads == 1
    assert TransformersBackend(random_model(), codec(), name="x", threads=2)._threads == 2
