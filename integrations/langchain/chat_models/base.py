"""What both models do: the options of a call, the backend it runs on, and the deltas it brings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, Self, cast

from langchain_core.language_models.base import LangSmithParams
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr, model_validator

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.backends.load import load_backend
from elastic_agent.model_location import model_path
from elastic_agent.scheduler.estimates.workload import FINAL

from ...openai_format.deltas import Delta, DeltaBuilder
from ...openai_format.guided_decoding import enforced_format, guided_fields, opened_prompt
from ..call import BecameFinal, CompletedCall, ModelCall, Terms, behind_told, may_become_final
from ..errors import langchain_errors, retrying
from .fields import ElasticFields
from .options import (
    ANSWER_NOW,
    PER_CALL,
    SAMPLING,
    CallOptions,
    check_names,
    chosen_tools,
    given_per_call,
    tracing_params,
)


class ElasticModel(ElasticFields):
    """Base of `ChatElasticReasoning` and `ElasticReasoningLLM`.

    Making a model, or reading a saved one, loads no weights: the first call does, or `load`.
    """

    _loaded: set[str] = PrivateAttr(default_factory=set)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        """Refuse now what every call would be refused for."""
        if self.backend is not None and "model" not in self.model_fields_set:
            self.__dict__["model"] = self.backend.model
        if self._to_server and self.base_url is None:
            raise ValueError(
                "default_headers=, extra_body= and proxy= are for a server: give its base_url=, too"
            )
        self._options(None, {})
        return self

    def with_retry(self, **options: Any) -> Runnable[Any, Any]:
        """This model, asked again where that may help (`Runnable.with_retry`): not after a budget error."""
        return Runnable.with_retry(cast("Runnable[Any, Any]", self), **retrying(**options))

    # Options

    def with_budget(self, **options: Any) -> Self:
        """A copy of this model with other per-call options as its own.

        Unlike `bind`, it returns a model, for everything that wants one: `create_agent`, for example.

        Args:
            options: `thinking_budget=`, `solution_budget=`, `stop=`, and what else may be given per call.

        Raises:
            TypeError: an unknown option.
            InvalidBudgetError: a Budget that can't be obeyed.
        """
        check_names({name: value for name, value in options.items() if name != "stop"}, chat=False)
        stop = {} if options.get("stop") is None else {"stop": options["stop"]}
        copy = self.model_copy(update=given_per_call(options) | stop)
        copy.__dict__.pop("_serialized", None)  # LangChain's cached property describes the original
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
        own = {name: getattr(self, name) for name in PER_CALL}
        own |= given_per_call(given)
        sampling = Sampling(*(own.pop(name) for name in SAMPLING))
        choice = given.get("tool_choice")
        tools = chosen_tools(given.get("tools") or (), choice)
        parallel, shape = given.get("parallel_tool_calls"), given.get("response_format")
        return CallOptions(
            **own,
            sampling=sampling,
            stop=tuple(self.stop or ()) if stop is None else tuple(stop),
            tools=tools,
            guide=guided_fields(tools, choice, parallel, shape),
        )

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
            "extra_body": self.extra_body,
        }

    def _tracing(
        self, kind: Literal["chat", "llm"], stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> LangSmithParams:
        options = self._options(stop, {name: value for name, value in given.items() if name in PER_CALL})
        return tracing_params(options, kind)

    # The backend

    def load(self) -> Self:
        """Load the model now. Otherwise its first call does, and the seconds count against that call's task.

        Raises:
            NoSuchModelError, UnbudgetableModelError: there is no such model, or it can't be budgeted.
        """
        with langchain_errors():
            self._backend()
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """The text's ids under the model's own tokenizer, control strings as text."""
        with langchain_errors():
            return self._backend().codec.encode(text)

    def _backend(self, model: str | None = None) -> Backend:
        """The backend of a model; the first use loads it, which may take seconds.

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
            **self._to_server,
            **self.backend_options,
        )
        self._loaded.add(model or self.model)
        return backend

    @property
    def _to_server(self) -> dict[str, Any]:
        """What is said of the connection to a server; empty where nothing is."""
        given = {"headers": self.default_headers, "extra_body": self.extra_body, "proxy": self.proxy}
        return {name: value for name, value in given.items() if value not in (None, {})}

    async def _ready_backend(self, model: str) -> Backend:
        """The same without blocking the event loop, and reachable."""
        known = self.backend is not None or model in self._loaded
        backend = self._backend(model) if known else await asyncio.to_thread(self._backend, model)
        await backend.ready()
        return backend

    # The call

    async def _deltas(
        self, messages: Sequence[dict[str, Any]], options: CallOptions
    ) -> AsyncGenerator[Delta | CompletedCall]:
        """What the call brings, delta by delta, and its CompletedCall last."""
        with langchain_errors():
            backend = await self._ready_backend(options.model)
            codec = backend.codec
            said = behind_told(messages, final=options.final or options.kind == FINAL)
            prompt = opened_prompt(codec.encode_chat(said, tools=options.tools or None), codec, options.guide)
            answer_prompt = None
            told = said is not messages
            if (options.tools or told) and may_become_final(options):
                ask = [{"role": "user", "content": ANSWER_NOW}] if options.tools else []
                answer_prompt = codec.encode_chat(behind_told([*messages, *ask], final=True))
            call = ModelCall(backend, prompt, options, self._terms, answer_prompt, told)
            builder = DeltaBuilder(options.tools, enforced_format(codec.tool_format, options.guide))
            async with aclosing(call.run()) as events:
                async for event in events:
                    if isinstance(event, BecameFinal):
                        builder = DeltaBuilder()  # the final answer has no tools
                        continue
                    if delta := builder.flush() if isinstance(event, CompletedCall) else builder.feed(event):
                        yield delta
                    if isinstance(event, CompletedCall):
                        yield event

    @property
    def _terms(self) -> Terms:
        return Terms(self.price, self.timeout, self.max_retries)


def local_context_length(model: str) -> int | None:
    """The context of a model in a local folder, from its configuration; None where it doesn't say."""
    try:
        config = json.loads((Path(model_path(model)).expanduser() / "config.json").read_text("utf-8"))
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
