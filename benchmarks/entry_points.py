"""Odd values at every place where a person or a client can write a number.

    python benchmarks/entry_points.py            20,000 cases
    python benchmarks/entry_points.py --quick    6,000 cases: under a minute
    python benchmarks/entry_points.py --json     one JSON object as the last line

An entry point takes one value and gives back the number that took effect. Each gets a table of odd values
(zero, negative, huge, NaN, booleans, text, other scripts, lists) and random ones. What should happen is
worked out here, in fractions, by the documented rules and apart from the code under test. Three things can go
wrong: a value is accepted that should not be, or another number took effect (`accepted_wrongly`); the entry
point fails in another way than by an error of this library, ValueError or status 400, computes for more than
a second, or answers with more than 600 characters (`crashed`); a value is ignored (`silent`). A value that
should be accepted and is refused is counted too (`refused_wrongly`). The exit status is 1 when any of them is
not zero.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any, Literal

from elastic_agent import Budget, Caps, ScriptedBackend
from elastic_agent.backends.base import Sampling
from elastic_agent.backends.scripted import Reply
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.errors import ElasticError
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.integrations.commands import main as cli
from elastic_agent.integrations.gateway.api import headers
from elastic_agent.integrations.gateway.api import request_schema as fields
from elastic_agent.integrations.gateway.errors import GatewayError
from elastic_agent.integrations.gateway.settings import Limits
from elastic_agent.integrations.langchain import ChatElasticReasoning, guard
from elastic_agent.scheduler import BudgetScheduler, Price, Timing
from elastic_agent.scheduler.policies.pacing import Pool
from elastic_agent.training.config.loading import load_config
from elastic_agent.training.evaluation.options import make_parser
from elastic_agent.validation import shown

Kind = Literal["integer", "real", "money"]
Medium = Literal["python", "text", "json"]
"""Where the value is written: Python and text take a number's text; JSON has numbers of its own."""

WRONG = ("accepted_wrongly", "crashed", "silent", "refused_wrongly")
ODD: list[Any] = [
    *(0, 1, 2, 17, -1, -17, 2**31 - 1, 2**31, 2**53, 10**12, 10**13, 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1.5, 3.0, -2.5, 1e-9, 1e-12, 1e-300, 1e16, 1e300, math.nan, math.inf, -math.inf),
    *(True, False, [], [3], {}, {"n": 3}, b"3", 3j, Decimal("0.05"), Decimal("NaN"), Decimal("1E+9999")),
    *(
        "",
        " ",
        "0",
        "7",
        " 7 ",
        "+7",
        "-7",
        "0.05",
        "1e3",
        "1e-9",
        "1e-999999999",
        "1e999999999",
        "5%",
        "5k",
        "1,000",
    ),
    *(
        "1_000",
        "0x10",
        "seven",
        "nan",
        "inf",
        "-Infinity",
        "None",
        "true",
        "٣",
        "७",
        "½",
        "7;8",
        "7\x00",
        "9" * 5000,
    ),
    *("0." + "1" * 60, "--7", "7 8", "1e", ".", "1/2", "07"),
]


@dataclass(frozen=True)
class Entry:
    """One place for a number.

    Attributes:
        name: for people.
        use: hands a value in and gives back the number that took effect.
        kind: what it takes.
        low, high: the range; `low` itself only if `least`.
        medium: how the value is written.
        default: what takes effect without one, besides None: a value that was ignored.
    """

    name: str
    use: Callable[[Any], Any]
    kind: Kind
    low: float
    high: float
    least: bool = True
    medium: Medium = "python"
    default: Any = None


def expected(entry: Entry, value: Any) -> Fraction | None:
    """The number that should take effect; None: the value should be refused."""
    number = exact(entry, value)
    if number is None or number > Fraction(str(entry.high)) or number < Fraction(str(entry.low)):
        return None
    if not entry.least and (number == Fraction(str(entry.low)) or float(number) <= entry.low):
        return None
    return number


def exact(entry: Entry, value: Any) -> Fraction | None:
    """What the value says, by the documented rules."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        form = r"[+-]?\d+" if entry.kind == "integer" else r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?"
        fits = entry.medium != "json" and len(text) <= 40 and text.isascii()
        return Fraction(text) if fits and re.fullmatch(form, text) else None
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and entry.kind != "integer":
        return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    return None


def written(entry: Entry, value: Any) -> Any:
    """The value as its medium has it."""
    if entry.medium == "text":
        return (
            value if isinstance(value, str) else repr(value) if not isinstance(value, Decimal) else str(value)
        )
    return value


# The entry points


@cache
def backend() -> ScriptedBackend:
    return ScriptedBackend(lambda prompt: Reply("hm", "ok"))


def option(command: str, name: str) -> Callable[[str], Any]:
    """An option of `elastic-agent COMMAND`, as its parser reads it."""
    before = {"ask": ["question"], "keys create": ["somebody"]}.get(command, [])

    def use(text: str) -> Any:
        line = [*command.split(), *before, f"--{name}={text}"]
        return getattr(cli.command_parser().parse_args(line), name.replace("-", "_"))

    return use


def limit_option(name: str) -> Callable[[str], Any]:
    """An option of `elastic-agent serve` that sets a limit."""

    def use(text: str) -> Any:
        (value,) = cli.command_parser().parse_args(["serve", f"--{name}={text}"]).limits.values()
        return value

    return use


def eval_option(name: str) -> Callable[[str], Any]:
    def use(text: str) -> Any:
        found = getattr(make_parser(True).parse_args([f"--{name}={text}"]), name.replace("-", "_"))
        return found[0] if isinstance(found, tuple) else found

    return use


def train_field(path: str) -> Callable[[Any], Any]:
    def use(value: Any) -> Any:
        found: Any = load_config("e1-tiny", [f"{path}={json.dumps(value)}"])
        for part in path.split("."):
            found = getattr(found, part)
        return found[0] if isinstance(found, tuple) else found

    return use


def body(kind: type[fields.Body], name: str) -> Callable[[Any], Any]:
    """A field of a request's JSON body."""
    least: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
    if kind is fields.CompletionRequest:
        least = {"prompt": "hello"}
    elif kind is fields.TaskRequest:
        least = {} if name in ("usd", "tokens", "seconds") else {"tokens": 10}

    def use(value: Any) -> Any:
        raw = json.dumps({**least, name: value}).encode()
        return getattr(fields.read(kind, raw), name)

    return use


def chat(name: str) -> Callable[[Any], Any]:
    return lambda value: getattr(ChatElasticReasoning(backend=backend(), **{name: value}), name)


def per_call(name: str) -> Callable[[Any], Any]:
    """A keyword of `invoke`."""
    model = ChatElasticReasoning(backend=backend())

    def use(value: Any) -> Any:
        options = model._options(None, {name: value})
        return getattr(options.sampling if hasattr(options.sampling, name) else options, name)

    return use


def scheduler(name: str) -> Callable[[Any], Any]:
    extra = {"max_waiting": {"max_running": 1}}.get(name, {})
    return lambda value: getattr(BudgetScheduler(backend(), **{name: value, **extra}), name)


def task(name: str) -> Callable[[Any], Any]:
    return lambda value: getattr(
        BudgetScheduler(backend()).task(Caps(tokens=10_000), **{name: value}).terms, name
    )


def expect(value: Any) -> Any:
    with BudgetScheduler(backend()).task(Caps(tokens=10**9), expect={"step": value}) as opened:
        return opened.state.forecast.coming.get("step", 0)


def served(name: str) -> Callable[[Any], Any]:
    def use(value: Any) -> Any:
        made = VllmServerBackend("m", "http://127.0.0.1:9/v1", codec=backend().codec, **{name: value})
        timeout = made._sessions._timeout
        timeouts = {"connect_timeout": timeout.sock_connect, "idle_timeout": timeout.sock_read}
        return timeouts.get(name, made.context_length)

    return use


def guarded(name: str) -> Callable[[Any], Any]:
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    model = FakeListChatModel(responses=["ok"])
    more = {"max_tokens": 2**31 - 1} if name == "thinking_budget" else {}

    def use(value: Any) -> Any:
        made: Any = guard(model, **{**more, name: value})
        return made.guard_terms.max_tokens if name == "max_tokens" else made.guard_terms.thinking

    return use


def entries() -> Iterator[Entry]:
    """All of them."""
    most, cap, seconds = 2**31 - 1, 10**12, 10**8
    yield Entry("Budget(thinking=)", lambda v: Budget(v, 1).thinking, "integer", 0, most)
    yield Entry("Budget(solution=)", lambda v: Budget(0, v).solution, "integer", 1, most)
    yield Entry("Caps(tokens=)", lambda v: Caps(tokens=v).tokens, "integer", 1, cap)
    yield Entry("Caps(seconds=)", lambda v: Caps(seconds=v).seconds, "real", 0, seconds, least=False)
    yield Entry(
        "Caps(usd=)", lambda v: Fraction(Caps(usd=v).nanodollars or 0, 10**9), "money", 1e-9, 5_000_000
    )
    for i, name in enumerate(("input", "output", "cached_input")):

        def price(value: Any, i: int = i, name: str = name) -> Any:
            values = [1, 1, 1]
            values[i] = value
            return Fraction(str(getattr(Price(*values), name)).strip())

        yield Entry(f"Price({name}=)", price, "money", 0, 1_000_000)
    for name, low, high, least in (("temperature", 0, 100, True), ("top_p", 0, 1, False)):
        yield Entry(
            f"Sampling({name}=)", lambda v, n=name: getattr(Sampling(**{n: v}), n), "real", low, high, least
        )
        yield Entry(f"ChatElasticReasoning({name}=)", chat(name), "real", low, high, least)
        yield Entry(f"invoke({name}=)", per_call(name), "real", low, high, least)
        yield Entry(
            f"eval --{name.replace('_', '-')}",
            eval_option(name.replace("_", "-")),
            "real",
            low,
            high,
            least,
            "text",
        )
    yield Entry("Sampling(top_k=)", lambda v: Sampling(top_k=v).top_k, "integer", -1, most)
    yield Entry("Sampling(seed=)", lambda v: Sampling(seed=v).seed, "integer", -(2**62), 2**62)
    for name, low in (("every", 16), ("patience", 2), ("tokens", 1)):
        yield Entry(
            f"EarlyExit({name}=)", lambda v, n=name: getattr(EarlyExit(**{n: v}), n), "integer", low, most
        )
    for name, low, high in (("slowdown", 1, 1000), ("headroom", 1, 1000)):
        yield Entry(f"Timing({name}=)", lambda v, n=name: getattr(Timing(**{n: v}), n), "real", low, high)
    yield Entry("Pool(tokens=)", lambda v: Pool(tokens=v).size, "integer", 1, cap)
    yield Entry("Pool(fair=)", lambda v: Pool(tokens=1, fair=v).fair, "real", 0, 0.999)
    for name, low in (("thinking_budget", 0), ("solution_budget", 1), ("max_tokens", 8)):
        yield Entry(f"ChatElasticReasoning({name}=)", chat(name), "integer", 1 if low == 8 else low, most)
        yield Entry(f"invoke({name}=)", per_call(name), "integer", 1 if low == 8 else low, most)
    yield Entry("ChatElasticReasoning(n=)", chat("n"), "integer", 1, 128)
    yield Entry("ChatElasticReasoning(priority=)", chat("priority"), "integer", -most, most)
    yield Entry("ChatElasticReasoning(weight=)", chat("weight"), "real", 0, 1e9, least=False)
    yield Entry("ChatElasticReasoning(timeout=)", chat("timeout"), "real", 0, seconds, least=False)
    yield Entry("ChatElasticReasoning(max_retries=)", chat("max_retries"), "integer", 0, 1000)
    for name in ("max_running", "max_waiting", "solution"):
        yield Entry(f"BudgetScheduler({name}=)", scheduler(name), "integer", 1, most)
    for name in ("context_length", "connect_timeout", "idle_timeout"):
        kind, high = ("integer", most) if name == "context_length" else ("real", seconds)
        low = 1 if kind == "integer" else 0
        yield Entry(f"served model's {name}", served(name), kind, low, high, least=kind == "integer")
    for name in ("max_tokens", "thinking_budget"):
        yield Entry(
            f"guard({name}=)",
            guarded(name),
            "integer",
            1 if name == "max_tokens" else 0,
            most - (name == "thinking_budget"),
        )
    for one in dataclass_fields(Limits):
        timed = one.name.endswith("_seconds")
        yield Entry(
            f"gateway's limit {one.name}",
            lambda v, n=one.name: getattr(Limits(**{n: v}), n),
            "real" if timed else "integer",
            0 if timed else 1,
            seconds if timed else most,
            least=not timed or one.name == "grace_seconds",
        )
    yield Entry("task(final_solution=)", task("final_solution"), "integer", 1, most)
    yield Entry("task(value=)", task("value"), "real", 0, 1e9, least=False)
    yield Entry("task(expect=)", expect, "integer", 0, 100_000)
    yield Entry(
        "header X-Elastic-Thinking",
        lambda v: headers.header_tokens({"T": v}, "T", 0),
        "integer",
        0,
        most,
        True,
        "text",
    )
    yield Entry(
        "header X-Elastic-Solution",
        lambda v: headers.header_tokens({"S": v}, "S", 1),
        "integer",
        1,
        most,
        True,
        "text",
    )
    yield Entry(
        "header X-Elastic-Caps: tokens",
        lambda v: headers.header_caps(f"tokens={v}").tokens,
        "integer",
        1,
        cap,
        True,
        "text",
    )
    yield Entry(
        "header X-Elastic-Caps: seconds",
        lambda v: headers.header_caps(f"seconds={v}").seconds,
        "real",
        0,
        seconds,
        False,
        "text",
    )
    for name, low in (("thinking_budget", 0), ("solution_budget", 1), ("max_tokens", 1)):
        for kind in (fields.ChatRequest, fields.CompletionRequest):
            yield Entry(f"{kind.__name__}.{name}", body(kind, name), "integer", low, most, True, "json")
    yield Entry("ChatRequest.n", body(fields.ChatRequest, "n"), "integer", 1, 128, True, "json")
    yield Entry(
        "ChatRequest.temperature", body(fields.ChatRequest, "temperature"), "real", 0, 2, True, "json"
    )
    yield Entry("ChatRequest.top_p", body(fields.ChatRequest, "top_p"), "real", 0, 1, False, "json")
    yield Entry("TaskRequest.tokens", body(fields.TaskRequest, "tokens"), "integer", 1, most, True, "json")
    yield Entry("TaskRequest.seconds", body(fields.TaskRequest, "seconds"), "real", 0, 1e7, False, "json")
    for command in ("demo", "ask"):
        yield Entry(f"{command} --solution", option(command, "solution"), "integer", 1, most, True, "text")
    yield Entry("ask --thinking", option("ask", "thinking"), "integer", 0, most, True, "text")
    yield Entry("ask --temperature", option("ask", "temperature"), "real", 0, 100, True, "text")
    yield Entry("demo --tokens", option("demo", "tokens"), "integer", 1, cap, True, "text")
    yield Entry("demo --seconds", option("demo", "seconds"), "real", 0, seconds, False, "text")
    yield Entry("demo --usd", option("demo", "usd"), "money", 0, 5_000_000, False, "text")
    for name, low, high in (
        ("solution", 1, most),
        ("port", 0, 65535),
        ("max-running", 1, most),
    ):
        yield Entry(f"serve --{name}", option("serve", name), "integer", low, high, True, "text")
    yield Entry("serve --max-body", limit_option("max-body"), "integer", 1024, most, True, "text")
    yield Entry("serve --lease", option("serve", "lease"), "real", 0, seconds, False, "text")
    for name, least in (("timeout", False), ("grace", True), ("task-idle", False)):
        yield Entry(f"serve --{name}", limit_option(name), "real", 0, seconds, least, "text")
    yield Entry("keys create --tokens", option("keys create", "tokens"), "integer", 1, cap, True, "text")
    yield Entry("keys create --usd", option("keys create", "usd"), "money", 0, 5_000_000, False, "text")
    yield Entry("up --port", option("up", "port"), "integer", 0, 65535, True, "text")
    for name in ("samples", "problems", "concurrency", "rows", "threads"):
        yield Entry(f"eval --{name}", eval_option(name), "integer", 1, most, True, "text")
    yield Entry("eval --solution", eval_option("solution"), "integer", 1, most, True, "text")
    for path, low in (
        ("steps", 1),
        ("seed", 0),
        ("rollout.prompts", 1),
        ("rollout.group", 2),
        ("budgets.solution", 1),
    ):
        yield Entry(f"train --set {path}", train_field(path), "integer", low, most)
    yield Entry("train --set learning.rate", train_field("learning.rate"), "real", 0, 1.7e308)


# The run


def odd_values(rng: random.Random) -> Iterator[Any]:
    """The table, then random ones for ever."""
    yield from ODD
    while True:
        digits = str(rng.randrange(10 ** rng.randint(1, 25)))
        yield rng.choice(
            (
                rng.randrange(-5, 10 ** rng.randint(1, 14)),
                rng.uniform(-1, 3) * 10.0 ** rng.randint(-20, 20),
                digits,
                f"{rng.choice('+- ')}{digits}.{rng.randrange(100)}",
                f"{digits[:3]}e{rng.randint(-1200, 1200)}",
                "".join(rng.choice("0123456789.eE+-_, x%\t") for _ in range(rng.randint(1, 12))),
            )
        )


def try_value(entry: Entry, value: Any) -> tuple[str, str]:
    """What became of one value: "right" or what went wrong, and the details."""
    if entry.medium == "json" or entry.name.startswith("train"):
        try:
            json.dumps(value, allow_nan=entry.medium == "json")
        except (TypeError, ValueError):
            return "none", ""  # nobody can write it there
    given = written(entry, value)
    wanted = expected(entry, given)
    began = time.process_time()
    try:
        took = entry.use(given)
    except (ElasticError, ValueError, GatewayError) as error:
        if (isinstance(error, GatewayError) and error.status != 400) or len(str(error)) > 600:
            return "crashed", f"{type(error).__name__}, {len(str(error))} characters: {str(error)[:200]}"
        outcome = ("right", "") if wanted is None else ("refused_wrongly", str(error)[:200])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "crashed", f"{type(error).__name__}: {str(error)[:200]}"
    else:
        if wanted is None:
            outcome = ("accepted_wrongly", shown(took))
        elif took is None or took == entry.default:
            outcome = ("silent", shown(took))
        else:
            near = abs(Fraction(took) - wanted) <= (
                Fraction(1, 10**9) if entry.kind == "money" else abs(wanted) / 2**50
            )
            outcome = ("right", "") if near else ("accepted_wrongly", shown(took))
    slow = time.process_time() - began > 1.0
    return ("crashed", f"took {time.process_time() - began:.1f} s") if slow else outcome


def measure(every: list[Entry], wanted: int, seed: int) -> tuple[int, dict[str, int]]:
    """Cases tried, and how many went wrong in which way; each is printed."""
    found: Counter[str] = Counter()
    cases = 0
    sources = [odd_values(random.Random(f"{seed}-{entry.name}")) for entry in every]
    while cases < wanted:
        for entry, values in zip(every, sources, strict=True):
            value = next(values)
            outcome, details = try_value(entry, value)
            cases += outcome != "none"
            found[outcome] += 1
            if outcome not in ("right", "none"):
                print(f"{outcome}: {entry.name} with {shown(value)}: {details}")
    return cases, {name: found[name] for name in WRONG}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="6,000 cases")
    parser.add_argument("--cases", type=int, help="default 20,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    options = parser.parse_args()
    every = list(entries())
    cases, wrong = measure(every, options.cases or (6_000 if options.quick else 20_000), options.seed)
    print(f"{len(every)} entry points, {cases} cases: {wrong}")
    if options.json:
        print(json.dumps({"entry_points": len(every), "cases": cases, **wrong}))
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
