"""The fields of both models, and how a model is written down and read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from langchain_core.load.serializable import Serializable
from langchain_core.utils.utils import secret_from_env
from pydantic import BeforeValidator, ConfigDict, Field, InstanceOf, SecretStr, SkipValidation

from elastic_agent.backends.base import MOST_SEED, Backend, Sampling
from elastic_agent.generation.early_exit import EarlyExit, plain
from elastic_agent.prompts.marker_profiles import MarkerText, marker_text
from elastic_agent.scheduler.allocation.call_terms import MOST_PRIORITY, OnExhausted
from elastic_agent.scheduler.ledger.prices import Price
from elastic_agent.validation import MOST_SECONDS, field, integer, real

_SAMPLING = Sampling()


def _as_price(value: object) -> object:
    return Price(**value) if isinstance(value, Mapping) else value


def _as_early_exit(value: object) -> object:
    return EarlyExit(**value) if isinstance(value, Mapping) else value


class ElasticFields(Serializable):
    """Fields of `ChatElasticReasoning` and `ElasticReasoningLLM`.

    Those from `thinking_budget` to `n`, and `model`, can be given per call as well.
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
    default_headers: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)
    """Sent with every request to the server. Not serialised: one of them may be a secret."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request to the server, for its engine: `{"min_p": 0.05}`."""
    proxy: str | None = Field(default=None, exclude=True, repr=False)
    """The URL of an HTTP proxy to the server; None takes the environment's (HTTPS_PROXY, NO_PROXY), "" none.
    Not serialised: it may hold a password."""
    tokenizer: str | None = None
    """Where the served model's tokenizer is (a folder or hub id), when that is not `model`."""
    markers: Annotated[InstanceOf[MarkerText] | None, BeforeValidator(marker_text)] = None
    """What begins and ends the model's thinking, where tokenizer and chat template don't say:
    ("<think>", "</think>"), a dict with "open" and "close", or the name of a known pair ("seed", say)."""
    backend_options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the backend: `{"device": "cuda"}` in process, `{"idle_timeout": 60}` of a server."""
    thinking_budget: Annotated[int, field(integer)] | None = None
    """Most thinking tokens of a call. Inside a task it is an upper bound: the task may grant less. None
    leaves the number to the task, or, outside of any task, to the model's context."""
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
    """The call gives its task's final answer: it may use the tokens that the task reserves for that."""
    weight: Annotated[float, field(real)] = 1.0
    """Worth of the call relative to the other calls of its task."""
    priority: Annotated[int, field(integer, least=-MOST_PRIORITY, most=MOST_PRIORITY, of="")] = 0
    """Lower goes first where the engine can choose."""
    on_exhausted: OnExhausted | None = None
    """What to do when the task's caps can't hold the call; None: as the task says."""
    label: str | None = None
    """The call's name in the task's log and report."""
    early_exit: Annotated[InstanceOf[EarlyExit] | None, BeforeValidator(_as_early_exit)] = None
    """End thinking when its answer no longer changes (`elastic_agent.generation.early_exit`); None: don't."""
    wrap_up: str | None = None
    """A sentence before the forced close, or a profile's name (`elastic_agent.generation.wrap_up`); None: the
    one of the task's scheduler, if it has one."""
    n: Annotated[int, field(integer, least=1)] = 1
    """How many answers to give (`generate`; `invoke` shows the first); each is a call with its own hold."""
    stop: list[str] | None = None
    """Strings that end the solution. They are not looked for in the thinking."""
    price: Annotated[InstanceOf[Price] | None, BeforeValidator(_as_price)] = None
    """What the model costs; None: what the price list says."""
    timeout: Annotated[float, field(real, above=True, most=MOST_SECONDS, of="seconds")] | None = None
    """Seconds after which a call fails. For "answer within ..." use `task_budget(seconds=...)`."""
    max_retries: Annotated[int, field(integer, most=1000, of="retries")] = 0
    """How often a call is tried again when the server broke it off before its first token."""
    backend: SkipValidation[Backend | None] = Field(default=None, exclude=True, repr=False)
    """A backend of your own, such as `ScriptedBackend` in tests; not serialised."""

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
        if self.early_exit is not None and self.early_exit.read is plain:  # another function can't be saved
            found["early_exit"] = self.early_exit.to_dict()
            del found["early_exit"]["read"]
        return found
