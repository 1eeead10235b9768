"""What the chat model and the text model share: their fields, and how a call is opened from them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from langchain_core.language_models.base import LangSmithParams
from langchain_core.load.serializable import Serializable
from langchain_core.utils.utils import secret_from_env
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PrivateAttr,
    SecretStr,
    SkipValidation,
    model_validator,
)

from elastic_agent.backends.base import MOST_SEED, Backend, Sampling
from elastic_agent.backends.load import load_backend
from elastic_agent.generation.early_exit import EarlyExit, plain
from elastic_agent.prompts.marker_profiles import MarkerText, marker_text
from elastic_agent.scheduler.allocation.request import MOST_PRIORITY, OnExhausted
from elastic_agent.scheduler.ledger.prices import Price
from elastic_agent.validation import MOST_SECONDS, field, integer, real

from ...openai_format.guided_decoding import guided_fields
from ..call import Terms
from ..errors import langchain_errors
from .options import (
    NULLABLE,
    PER_CALL,
    CallOptions,
    check_names,
    chosen_tools,
    tracing,
)

_SAMPLING = Sampling()


def _as_price(value: object) -> object:
    return Price(**value) if isinstance(value, Mapping) else value


def _as_exit(value: object) -> object:
    return EarlyExit(**value) if isinstance(value, Mapping) else value


class ElasticFields(Serializable):
    """Fields of `ChatElasticReasoning` and `ElasticReasoningLLM`.

    Those from `thinking_budget` to `wrap_up`, and `model`, can be given per call as well.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", use_attribute_docstrings=True)

    model: str = "e1-tiny"
    """An embedded model ("e1-tiny"), a folder, a Hugging Face id, or what the server at `base_url` serves."""
    base_url: str | None = None
    """A vLLM server ("http://localhost:8000/v1"); None runs the model in this process."""
    api_key: SecretStr | None = Field(
        default_factory=secret_from_env("ELASTIC_AGENT_API_KEY", default=None), repr=False
    )
    """The server's key, if it wants one; read from ELASTIC_AGENT_API_KEY by default."""
    tokenizer: str | None = None
    """Where the served model's tokenizer is (a folder or hub id), when that is not `model`."""
    markers: Annotated[InstanceOf[MarkerText] | None, BeforeValidator(marker_text)] = None
    """What begins and ends the model's thinking, where its tokenizer and chat template don't tell:
    ("<think>", "</think>"), a dict with "open" and "close", or the name of a known pair ("seed", say)."""
    backend_options: dict[str, Any] = Field(default_factory=dict)
    """More for the backend: `{"device": "cuda"}` in process, `{"idle_timeout": 60}` of a server."""
    thinking_budget: Annotated[int, field(integer)] | None = None
    """Most thinking tokens of a call. None leaves it to the task that the call is in, or, without a task, to
    the model's context. Under a task it is an upper bound: the task may grant less."""
    solution_budget: Annotated[int, field(integer, least=1)] = 512
    """Most solution tokens of a call."""
    max_tokens: Annotated[int, field(integer, least=1)] | None = None
    """Most tokens of a whole answer, close included. The solution keeps its part; thinking gives way."""
    temperature: Annotated[float, field(real)] = _SAMPLING.temperature
    """0 is greedy. The paper's value by default."""
    top_p: Annotated[float, field(real)] = _SAMPLING.top_p
    """Nucleus sampling, in (0, 1]."""
    top_k: Annotated[int, field(integer, least=-1)] = _SAMPLING.top_k
    """Sample from this many tokens only; 0 is all."""
    seed: Annotated[int, field(integer, least=-MOST_SEED, most=MOST_SEED, of="")] | None = None
    """Seed of the sampling, where the backend can be seeded."""
    kind: str = "call"
    """What kind of call this is; a task learns one success curve per kind."""
    final: bool = False
    """The call gives its task's answer: it may use what the task keeps for that."""
    weight: Annotated[float, field(real)] = 1.0
    """Worth of the call relative to the other calls of its task."""
    priority: Annotated[int, field(integer, least=-MOST_PRIORITY, most=MOST_PRIORITY, of="")] = 0
    """Lower goes first where the engine can choose."""
    on_exhausted: OnExhausted | None = None
    """What to do when the task's caps can't hold the call; None is the task's own way."""
    label: str | None = None
    """What the task's log and report call it."""
    early_exit: Annotated[InstanceOf[EarlyExit] | None, BeforeValidator(_as_exit)] = None
    """End thinking when its answer no longer changes (`elastic_agent.generation.early_exit`); None: don't."""
    wrap_up: str | None = None
    """A sentence before the forced close, or a profile's name (`elastic_agent.generation.wrap_up`); None:
    none, unless the task's scheduler has one."""
    n: Annotated[int, field(integer, least=1)] = 1
    """How many answers to give (`generate`; `invoke` shows the first); each is a call with its own hold."""
    stop: list[str] | None = None
    """Strings that end the solution. They are not looked for in the thinking."""
    price: Annotated[InstanceOf[Price] | None, BeforeValidator(_as_price)] = None
    """What the model costs; by default what the price list says."""
    timeout: Annotated[float, field(real, above=True, most=MOST_SECONDS, of="seconds")] | None = None
    """Seconds after which a call fails. For "answer within ..." use `task_budget(seconds=...)`."""
    max_retries: Annotated[int, field(integer, most=1000, of="retries")] = 0
    """How often a call is tried again when the server broke it off before its first token."""
    backend: SkipValidation[Backend | None] = Field(default=None, exclude=True, repr=False)
    """A backend of your own, such as `ScriptedBackend` in tests; not serialised."""

    _loaded: set[str] = PrivateAttr(default_factory=set)

    @model_validator(mode="after")
    def _obeyable(self) -> Self:
        """Refuse, now, what every call would be refused for."""
        if self.backend is not None and "model" not in self.model_fields_set:
            self.__dict__["model"] = self.backend.model
        self._options(None, {})
        if self.backend is None and self.base_url is None:
            # A model in this process is loaded now: later, its loading would count against a task's seconds
            self._backend()
        return self

    # Serialisation

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        return ["elastic_agent", "integrations", "langchain"]  # the public import, stable when files move

    @property
    def lc_secrets(self) -> dict[str, str]:
        return {"api_key": "ELASTIC_AGENT_API_KEY"}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.price is not None:
            given = {name: getattr(self.price, name) for name in ("input", "output", "cached_input")}
            found["price"] = {name: None if value is None else str(value) for name, value in given.items()}
        if self.markers is not None:
            found["markers"] = {"open": self.markers.open, "close": self.markers.close}
        if self.early_exit is not None and self.early_exit.read is plain:  # no other can be written down
            found["early_exit"] = self.early_exit.to_dict()
            del found["early_exit"]["read"]
        return found

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What every call's answer depends on."""
        return {**self._options(None, {}).key(), **self._where}

    @property
    def _where(self) -> dict[str, Any]:
        """Which model answers, its name aside."""
        return {
            "base_url": self.base_url,
            "tokenizer": self.tokenizer,
            "markers": None if self.markers is None else (self.markers.open, self.markers.close),
            "backend_options": self.backend_options,
        }

    def _tracing(
        self, kind: Literal["chat", "llm"], stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> LangSmithParams:
        options = self._options(stop, {name: value for name, value in given.items() if name in PER_CALL})
        return tracing(options, kind)

    # Calls

    def with_budget(self, **options: Any) -> Self:
        """A copy of this model with other per-call options as its own.

        Unlike `bind`, it is a model: it can be handed to anything that wants one, `create_agent` included.

        Args:
            options: `thinking_budget=`, `solution_budget=`, `stop=`, and what else may be given per call.

        Raises:
            TypeError: an unknown option.
            InvalidBudgetError: a Budget that can't be obeyed.
        """
        check_names({name: value for name, value in options.items() if name != "stop"}, chat=False)
        options = {
            name: value
            for name, value in options.items()
            if name in PER_CALL | {"stop"} and (value is not None or name in NULLABLE)
        }
        copy = self.model_copy(update=options)
        copy.__dict__.pop("_serialized", None)  # LangChain's cached property: it describes the original
        with langchain_errors():
            copy._options(None, {})
        return copy

    def _options(
        self, stop: Sequence[str] | None, given: Mapping[str, Any], *, chat: bool = False
    ) -> CallOptions:
        """This model's options with a call's own over them.

        Raises:
            TypeError: an unknown option.
            InvalidBudgetError: a Budget that can't be obeyed.
            ValueError: sampling that makes no sense, or a tool choice that is not among the tools.
        """
        check_names(given, chat=chat)

        def value(name: str) -> Any:
            own = given.get(name)
            return own if name in given and (own is not None or name in NULLABLE) else getattr(self, name)

        choice = given.get("tool_choice")
        tools = chosen_tools(given.get("tools") or (), choice)
        return CallOptions(
            model=value("model"),
            thinking=value("thinking_budget"),
            solution=value("solution_budget"),
            max_tokens=value("max_tokens"),
            sampling=Sampling(value("temperature"), value("top_p"), value("top_k"), value("seed")),
            stop=tuple(self.stop or ()) if stop is None else tuple(stop),
            tools=tools,
            guide=guided_fields(
                tools, choice, given.get("parallel_tool_calls"), given.get("response_format")
            ),
            n=value("n"),
            kind=value("kind"),
            final=value("final"),
            weight=value("weight"),
            priority=value("priority"),
            on_exhausted=value("on_exhausted"),
            label=value("label"),
            early_exit=value("early_exit"),
            wrap_up=value("wrap_up"),
        )

    @property
    def _terms(self) -> Terms:
        return Terms(self.price, self.timeout, self.max_retries)

    def _backend(self, model: str | None = None) -> Backend:
        """The backend of a model; loads it on first use, which may take seconds.

        Raises:
            UnknownModelError: there is no such model.
            NoMarkersError: its thinking can't be budgeted.
        """
        if self.backend is not None:
            return self.backend
        key = self.api_key.get_secret_value() if self.api_key is not None else None
        backend = load_backend(
            model or self.model,
            base_url=self.base_url,
            api_key=key,
            tokenizer=self.tokenizer,
            markers=self.markers,
            **self.backend_options,
        )
        self._loaded.add(model or self.model)
        return backend

    async def _ready_backend(self, model: str) -> Backend:
        """The same without blocking the event loop, and reachable."""
        known = self.backend is not None or model in self._loaded
        backend = self._backend(model) if known else await asyncio.to_thread(self._backend, model)
        await backend.ready()
        return backend
