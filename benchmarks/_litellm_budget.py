"""What LiteLLM's own budget checks cost per call, in memory: a child of decision_cost.py.

    .venv-litellm/bin/python benchmarks/_litellm_budget.py [--calls 2000] [--keys 100]

The last line of stdout is {"version": ..., "times": {name: {"p50_us", "p99_us"}}}. Timed is what LiteLLM does
before a call and after it, by its own functions; keys take their turns. No network, database or Redis.

    proxy_reserve    what its proxy does for a key with `max_budget`. Before: `virtual_key_max_budget_check`
                     (reads the key's spend), `reserve_budget_for_request` (counts the prompt's tokens,
                     prices the worst case, adds it to the spend; where that doesn't fit, the reservation is
                     shrunk to what is left and the request goes out as it is). After: `completion_cost`,
                     `reconcile_budget_reservation`, `increment_spend_counters` (the true cost replaces it)
    proxy_check      the same with `disable_budget_reservation`: no hold, so calls at one time all pass
    proxy_count      the part of proxy_reserve that counts the prompt's tokens; ours come counted
    manager          the SDK's `BudgetManager` as its documentation uses it. Before: `get_current_cost` and
                     `get_total_budget`. After: `update_cost`; a new thread then writes all users to a file
    manager_unsaved  the same without the thread and the file

Each is money alone, on one account: no tree, no tokens, no time, and nothing is allocated. Left out, in
LiteLLM's favour: finding the key, the database's queue, the cached key's own spend (`update_cache`), and
alerts (tasks that run between the calls, off the clock).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from statistics import quantiles

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its own copy of the prices: no network

import litellm
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.auth.auth_checks import virtual_key_max_budget_check
from litellm.proxy.spend_tracking import budget_reservation

MODEL, ROUTE, BUDGET = "gpt-4o-mini", "/chat/completions", 1e6
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "one two three four " * 11}],
    "max_tokens": 1120,
}
RAW = json.dumps(BODY).encode()
ANSWER = litellm.ModelResponse(
    model=MODEL, usage=litellm.Usage(prompt_tokens=51, completion_tokens=560, total_tokens=611)
)
Before = Callable[[UserAPIKeyAuth], Awaitable[dict | None]]
RemainingWork = Callable[[UserAPIKeyAuth, dict | None], Awaitable[None]]


async def check(key: UserAPIKeyAuth) -> None:
    await virtual_key_max_budget_check(key, proxy_server.proxy_logging_obj)


async def check_and_reserve(key: UserAPIKeyAuth) -> dict | None:
    await check(key)
    reserved = await budget_reservation.reserve_budget_for_request(
        request_body=BODY,
        route=ROUTE,
        llm_router=None,
        valid_token=key,
        team_object=None,
        user_object=None,
        prisma_client=None,
        user_api_key_cache=proxy_server.user_api_key_cache,
        proxy_logging_obj=proxy_server.proxy_logging_obj,
        raw_body=RAW,
    )
    assert reserved is not None, "nothing was reserved"
    return reserved


async def account(key: UserAPIKeyAuth, reserved: dict | None) -> None:
    """As its cost callback does it, but for the database."""
    cost = litellm.completion_cost(completion_response=ANSWER)
    if reserved is not None:
        await budget_reservation.reconcile_budget_reservation(
            budget_reservation=reserved, actual_cost=cost, finalize=False, apply_consistent=False
        )
    await proxy_server.increment_spend_counters(
        token=key.token, team_id=None, user_id=None, response_cost=cost, budget_reservation=reserved
    )


async def count(key: UserAPIKeyAuth) -> None:
    await budget_reservation.count_request_input_tokens(
        request_body=BODY, route=ROUTE, llm_router=None, raw_body=RAW
    )


async def nothing(key: UserAPIKeyAuth, reserved: dict | None) -> None:
    """Nothing to do after."""


async def proxy_times(
    before: Before, after: RemainingWork, calls: int, keys: int, name: str
) -> dict[str, float]:
    made = [UserAPIKeyAuth(token=f"{name}-{i:064d}", max_budget=BUDGET, spend=0.0) for i in range(keys)]
    for key in made:
        await proxy_server.user_api_key_cache.async_set_cache(
            key=key.token, value=key, model_type=UserAPIKeyAuth
        )
    found = []
    for i in range(-keys, calls):  # each key's first call sets up its counter: not timed
        key = made[i % keys]
        start = time.perf_counter_ns()
        reserved = await before(key)
        checked = time.perf_counter_ns()
        await asyncio.sleep(0)  # the call itself; tasks that LiteLLM started run here
        answered = time.perf_counter_ns()
        await after(key, reserved)
        if i >= 0:
            found.append(time.perf_counter_ns() - answered + checked - start)
    if after is account:
        turns = calls // keys + 1
        cost = litellm.completion_cost(completion_response=ANSWER)
        spent = await proxy_server.get_current_spend(f"spend:key:{made[0].token}", 0.0)
        assert abs(spent - turns * cost) < cost / 2, f"{name} lost count: {spent}, not {turns * cost}"
    return quantiles_us(found)


def manager_times(calls: int, keys: int, *, saves: bool) -> dict[str, float]:
    manager = litellm.BudgetManager(project_name="decision-cost")
    if not saves:
        manager._save_data_thread = lambda: None
    users = [f"user-{i}" for i in range(keys)]
    for user in users:
        manager.create_budget(total_budget=BUDGET, user=user)
    found = []
    for i in range(calls):
        user = users[i % keys]
        start = time.perf_counter_ns()
        within = manager.get_current_cost(user=user) <= manager.get_total_budget(user)
        checked = time.perf_counter_ns()
        assert within
        answered = time.perf_counter_ns()
        manager.update_cost(completion_obj=ANSWER, user=user)
        found.append(time.perf_counter_ns() - answered + checked - start)
    return quantiles_us(found)


def quantiles_us(nanoseconds: list[int]) -> dict[str, float]:
    cuts = quantiles([each / 1000 for each in nanoseconds], n=100)
    return {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1)}


async def proxy(calls: int, keys: int) -> dict[str, dict[str, float]]:
    return {
        "proxy_reserve": await proxy_times(check_and_reserve, account, calls, keys, "reserve"),
        "proxy_check": await proxy_times(check, account, calls, keys, "check"),
        "proxy_count": await proxy_times(count, nothing, calls, keys, "count"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="what LiteLLM's own budget checks cost per call")
    parser.add_argument("--calls", type=int, default=2_000, help="calls that are timed, each")
    parser.add_argument("--keys", type=int, default=100, help="keys with a budget that take their turns")
    args = parser.parse_args()
    times = asyncio.run(proxy(args.calls, args.keys))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # BudgetManager keeps user_cost.json in the current directory
        times["manager_unsaved"] = manager_times(args.calls, args.keys, saves=False)
        times["manager"] = manager_times(args.calls, args.keys, saves=True)
        for thread in threading.enumerate():
            if "save_data" in thread.name:
                thread.join()
        os.chdir("/")
    print(json.dumps({"version": version("litellm"), "times": times}))


if __name__ == "__main__":
    main()
