"""Providers' controls of thinking, as data: what each model takes, and how each client class sends it.

    CHECKED is the day on which the rows were compared with the providers' documentation and with the profiles
    that LangChain's packages carry. To follow a provider's change, change its row and the day.

A model is found by its maker's name for it (`plain_name`), on any host: the first row of MODELS whose pattern
begins that name. A model without a row is sent its output limit alone. docs/langchain.md says per family what
is a hard limit and what is advice; a test holds that page to these rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Literal

CHECKED = date(2026, 11, 30)

Control = Literal["effort", "budget", "level", "none"]
"""effort: a word, which is advice. budget: a number of tokens, which the provider aims at. level: a word of
Gemini's."""

LEVEL_FROM = {"low": 1, "medium": 1024, "high": 8192, "xhigh": 32_768, "max": 65_536}
"""The smallest grant of thinking tokens for each word."""
OFF = ("none", "minimal")
"""Words for no thinking, or hardly any."""

LMH = ("low", "medium", "high")
TASK_BUDGET_LEAST = 20_000
"""Anthropic refuses a task budget of less. langchain-anthropic adds its header, `task-budgets-2026-03-13`."""


@dataclass(frozen=True, slots=True)
class Model:
    """How the thinking of one family of models is controlled.

    Attributes:
        names: a pattern that begins its plain names.
        family: its maker, or the name that people know it by.
        control: what kind of control it takes.
        levels: the words that it takes, if it takes words.
        least, most: the smallest and largest number of thinking tokens, if it takes a number.
        off: thinking can be switched off.
        task_budget: it takes Anthropic's task budget.
    """

    names: str
    family: str
    control: Control
    levels: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    off: bool = False
    task_budget: bool = False


MODELS: tuple[Model, ...] = (
    # Claude: from 4.7 on `budget_tokens` is a 400, as is `disabled` but for 5; before, budgets from 1,024
    Model(r"claude-(fable|mythos)", "claude", "effort", (*LMH, "xhigh", "max"), task_budget=True),
    Model(r"claude-(opus|sonnet|haiku)-5-5", "claude", "effort", (*LMH, "xhigh", "max"), task_budget=True),
    Model(r"claude-opus-5(?!-\d\b)", "claude", "effort", (*LMH, "xhigh", "max"), off=True, task_budget=True),
    Model(r"claude-sonnet-5(?!-\d\b)", "claude", "effort", (*LMH, "xhigh", "max"), off=True),
    Model(r"claude-opus-4-[78]\b", "claude", "effort", (*LMH, "xhigh", "max"), task_budget=True),
    Model(r"claude-(opus|sonnet)-4-6\b", "claude", "budget", least=1024, off=True),
    Model(r"claude-(opus|sonnet|haiku)-4-[015]\b", "claude", "budget", least=1024, off=True),
    Model(r"claude-(opus|sonnet)-4(?!-\d{1,2}\b)", "claude", "budget", least=1024, off=True),
    Model(r"claude-sonnet-3-7", "claude", "budget", least=1024, off=True),
    # OpenAI
    Model(r"gpt-[\d-]+-chat", "openai", "none"),
    Model(r"gpt-6-(1|astra)\b", "openai", "effort", (*LMH, "xhigh", "max")),
    Model(r"gpt-(6|5-6)\b", "openai", "effort", ("none", *LMH, "xhigh", "max"), off=True),
    Model(r"gpt-5-pro", "openai", "effort", ("high",)),
    Model(r"gpt-5-[2-5]-pro", "openai", "effort", ("medium", "high", "xhigh")),
    Model(r"gpt-5-([23]-codex|1-codex-max)", "openai", "effort", (*LMH, "xhigh")),
    Model(r"gpt-5-[2-5]\b", "openai", "effort", ("none", *LMH, "xhigh"), off=True),
    Model(r"gpt-5(-1)?-codex", "openai", "effort", LMH),
    Model(r"gpt-5-1\b", "openai", "effort", ("none", *LMH), off=True),
    Model(r"gpt-5(?!-\d\b|\d)", "openai", "effort", ("minimal", *LMH)),
    Model(r"o1-(mini|preview)", "openai", "none"),
    Model(r"o[134](-|$)", "openai", "effort", LMH),
    Model(r"gpt-oss", "openai", "effort", LMH),
    # Gemini: from 3 on a level, before a budget; both together are a 400
    Model(r"gemini-[\d-]+(-\w+)*-(image|tts|live|embedding)", "gemini", "none"),
    Model(r"gemini-3-pro", "gemini", "level", ("low", "high")),
    Model(r"gemini-(3-1-pro|3-[78]-flash|4-argon)", "gemini", "level", LMH),
    Model(r"gemini-3(-\d)?-flash", "gemini", "level", ("minimal", *LMH)),
    Model(r"gemini-2-5-pro", "gemini", "budget", least=128, most=32_768),
    Model(r"gemini-2-5-flash-lite", "gemini", "budget", least=512, most=24_576, off=True),
    Model(r"gemini-2-5-flash", "gemini", "budget", least=1, most=24_576, off=True),
    # Others
    Model(r"deepseek-v4", "deepseek", "effort", ("high", "max"), off=True),
    Model(r"grok-4-3", "grok", "effort", ("none", *LMH), off=True),
    Model(r"grok-4-[67]", "grok", "effort", (*LMH, "xhigh")),
    Model(r"grok-4-5", "grok", "effort", LMH),
    Model(r"grok-3-mini", "grok", "effort", ("low", "high")),
    Model(r"nova-2-lite", "nova", "effort", LMH, off=True),
)


@dataclass(frozen=True, slots=True)
class Client:
    """How a client class sends a Budget.

    Attributes:
        classes: names of LangChain's classes; subclasses count as well.
        output: the call option for all output tokens.
        style: how the options for thinking are written; "" where the class has none.
        families: of models whose thinking can be controlled in this style; empty: all.
        field: `output` is a field of the model, not an option of a call.
    """

    classes: tuple[str, ...]
    output: str
    style: Literal["", "anthropic", "bedrock", "openai", "openrouter", "gemini"] = ""
    families: tuple[str, ...] = ()
    field: bool = False


CLIENTS: tuple[Client, ...] = (
    Client(
        ("ChatAnthropic", "ChatAnthropicVertex", "ChatAnthropicBedrock", "ChatBedrock"),
        "max_tokens",
        "anthropic",
        ("claude",),
    ),
    Client(("ChatBedrockConverse",), "max_tokens", "bedrock", ("claude", "openai", "nova")),
    Client(("ChatGoogleGenerativeAI", "ChatVertexAI"), "max_output_tokens", "gemini", ("gemini",)),
    Client(("ChatOpenRouter",), "max_tokens", "openrouter"),
    Client(("BaseChatOpenAI", "ChatGroq"), "max_tokens", "openai", ("openai", "deepseek", "grok")),
    Client(("ChatOllama",), "num_predict", field=True),
)
"""A subclass of BaseChatOpenAI with OpenRouter's address takes its options in the request's body. There a
number of tokens works as well; the client under ChatOpenRouter drops it (openrouter 0.10)."""

_HOSTS = re.compile(
    r"^((us|eu|apac|jp|au|ca|in|sa|uk|global|us-gov)\.)?"
    r"(anthropic|openai|google|meta|amazon|mistral|deepseek|xai|zai|qwen|moonshot|moonshotai|minimax|nvidia)\."
)
_NUMBER_FIRST = re.compile(r"^claude-(\d+(?:-\d+)?)-(opus|sonnet|haiku|fable|mythos)")


def plain_name(name: str) -> str:
    """A model's name as its maker writes it, dots as hyphens, without what hosts put around it.

    `us.anthropic.claude-opus-4-5-20251101-v1:0`, `anthropic/claude-opus-4.5`, `models/...`,
    `publishers/anthropic/models/claude-opus-4-5@20251101` and `arn:aws:bedrock:...` all begin with
    `claude-opus-4-5`.
    """
    plain = name.strip().lower()
    if plain.startswith("ft:"):
        plain = plain.split(":")[1]
    plain = re.sub(r"^[a-z_]+:(?=[a-z])", "", plain.rpartition("/")[2]).partition("@")[0]
    plain = re.sub(r"(-v\d+)?:[\w-]+$", "", plain)
    plain = _HOSTS.sub("", plain).replace(".", "-")
    return _NUMBER_FIRST.sub(r"claude-\2-\1", plain)


def model_row(name: str) -> Model | None:
    """The model's row; None where it has none."""
    plain = plain_name(name)
    return next((row for row in MODELS if re.match(row.names, plain)), None)


def level(thinking: int, levels: tuple[str, ...]) -> str:
    """The word for a grant of so many thinking tokens, among the words that a model takes."""
    off = [word for word in levels if word in OFF]
    if thinking <= 0 and off:
        return off[0]
    words = [word for word in levels if word not in OFF]
    return next((word for word in reversed(words) if LEVEL_FROM[word] <= thinking), words[0])
