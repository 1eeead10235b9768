"""The bodies that clients send, as pydantic models: they check requests and make the OpenAPI description.

OpenAI's clients send many fields. Known fields are checked. A field that would change the answer and can't be
obeyed here is refused, unless its value asks for nothing (`REFUSED`). Another server's name for a limit is
translated, and an unknown name that looks like a limit is refused (`aliases`). All other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import bad_request
from .aliases import check_unknown, translate
from .json_body import parse

MOST = 2**31 - 1
Tokens = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
T = TypeVar("T")
MOST_MESSAGES = 2048
"""Messages of a conversation, and parts of a message: as many as OpenAI allows."""
MOST_TOOLS = 128


def at_most(many: int) -> BeforeValidator:
    """A check that an object has at most so many keys. Pydantic alone would check each of them first."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > many:
            raise ValueError(f"at most {many} keys, not {len(value)}")
        return value

    return BeforeValidator(check)


LongList = Annotated[list[T], Field(max_length=MOST_MESSAGES, fail_fast=True)]
"""A list of which only the first error is reported: to report a million took half a minute."""
ShortList = Annotated[list[T], Field(max_length=MOST_TOOLS, fail_fast=True)]
OnExhausted = Literal["shrink", "wait", "raise"]
EFFORTS: Mapping[str, float | None] = {
    "none": 0.0,
    "minimal": 1 / 64,
    "low": 1 / 32,
    "medium": 1 / 16,
    "high": 1 / 8,
    "xhigh": 1 / 4,
    "max": None,
}
"""`reasoning_effort` as a share of the model's context. Of 32K: 0, 512, 1024, 2048, 4096, 8192, no limit."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

REFUSED: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logits_processors": ([],),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "prompt_logprobs": (0,),
    "repetition_penalty": (1,),
    "stop_token_ids": ([],),
    "structured_outputs": ({},),
    "suffix": ("",),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Fields that can't be obeyed here, and the values with which they ask for nothing (null always is one)."""


class Body(BaseModel):
    """A JSON object with checked fields. `read` looks at the unknown ones."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = REFUSED


class Function(Body):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


def function_tool(
    name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool | None
) -> dict[str, Any]:
    """A tool as a chat request has it; what is None or False is left out."""
    given = {"description": description, "parameters": parameters, "strict": strict or None}
    return {
        "type": "function",
        "function": {"name": name} | {field: value for field, value in given.items() if value is not None},
    }


class CalledFunction(Body):
    name: str
    arguments: str = "{}"


class CalledTool(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Part(Body):
    """A part of a message: text, or a refusal, which is read as text."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | LongList[Part] | None = None
    name: str | None = None
    tool_calls: ShortList[CalledTool] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    name: str = "answer"
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    include_usage: bool | None = None


class AnswerRequest(Body):
    """What all requests for an answer may say."""

    model: Text | None = None
    thinking_budget: Annotated[Tokens | None, Field(description="At most so many thinking tokens.")] = None
    solution_budget: Annotated[Count | None, Field(description="At most so many solution tokens.")] = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None


class _Generation(AnswerRequest):
    reasoning_effort: Effort | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**62), le=2**62)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MOST)] | None = None
    stream_options: StreamOptions | None = None


class ChatRequest(_Generation):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[LongList[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    tools: ShortList[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None


def _one_prompt(given: Any) -> Any:
    """The prompt of a list of prompts, which clients send also for one."""
    if not isinstance(given, list) or not given or isinstance(given[0], int):
        return given
    if len(given) > 1:
        raise ValueError(f"one prompt a request, not {len(given)}: send each by itself")
    return given[0]


class CompletionRequest(_Generation):
    """The body of `/v1/completions`."""

    prompt: Annotated[
        Text | Annotated[list[Annotated[int, Field(ge=0, le=MOST)]], Field(min_length=1, fail_fast=True)],
        BeforeValidator(_one_prompt),
    ]
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = None


class TaskRequest(Body):
    """The body of a POST to `/v1/tasks`: at least one cap."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: Name | None = None
    usd: Annotated[float, Field(gt=0, le=1e6)] | None = None
    tokens: Count | None = None
    seconds: Annotated[float, Field(gt=0, le=1e7)] | None = None
    expect: Annotated[dict[Name, Annotated[int, Field(ge=0, le=100_000)]] | None, at_most(100)] = None
    final_solution: Count | None = None
    on_exhausted: OnExhausted = "shrink"


B = TypeVar("B", bound=Body)


def read(kind: type[B], raw: bytes) -> B:
    """The checked body of a request.

    Raises:
        GatewayError: 400, naming a field that is wrong.
    """
    body = checked(kind, translate(parse(raw), kind.model_fields))
    _check_extra(kind, body.model_extra or {})
    return body


def checked(kind: type[B], value: dict[str, Any]) -> B:
    """A checked JSON object.

    Raises:
        GatewayError: 400, naming a field that is wrong.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        deepest = max(errors, key=lambda one: len(one["loc"]))  # of a union, the branch that fits best
        where = _where(deepest["loc"])
        raise bad_request(where, f"{where}: {deepest['msg']}") from None
    except RecursionError:
        raise bad_request(None, "the body is nested too deeply", "invalid_json") from None


def _where(loc: tuple[int | str, ...]) -> str:
    """A place in the body as people write it, without pydantic's names for the branches of unions."""
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and not step[0].isupper() and step not in ("str", "int", "bool", "float"):
            path += f".{step}" if path else step
    return path[:200] or "body"


def _check_extra(kind: type[Body], extra: Mapping[str, Any]) -> None:
    for name, value in extra.items():
        if name not in kind.refused:
            check_unknown(name)
        elif value is not None and value not in kind.refused[name]:
            raise bad_request(name, f"{name} can't be obeyed here: leave it out", "unsupported_value")
