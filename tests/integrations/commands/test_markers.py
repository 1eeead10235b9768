"""Markers that a tokenizer doesn't tell are set wherever a model is named; without them all refuse alike."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from langchain_core.load import dumpd, load

from elastic_agent.backends.load import load_backend
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.cli_arguments import Parser, add_marker_options, given_markers
from elastic_agent.errors import InvalidMarkersError, NoMarkersError, UsageError
from elastic_agent.integrations.commands.main import main
from elastic_agent.integrations.commands.upstreams import UpstreamConfig, parse_upstream
from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM
from elastic_agent.prompts.marker_profiles import KNOWN_MARKERS, MarkerText, marker_text
from elastic_agent.training.cli import configure, parser
from elastic_agent.training.config.loading import build, dump, load_config
from elastic_agent.training.grpo.validate import validate
from tests.core.prompts.vocabularies import merging, tiny_model
from tests.training.runs import small

PAIR = MarkerText("<mull>", "</mull>")
NAMED = ["--open", "<mull>", "--close", "</mull>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose thinking nothing tells."""
    return tiny_model(tmp_path_factory.mktemp("mull"), merging(prefill="<mull>\n"))


def test_without_markers_the_error_says_what_to_do(folder: Path) -> None:
    """Law 8: what ends thinking is unknown, and every way of setting it is named."""
    with pytest.raises(NoMarkersError, match=r"markers=MarkerText\(open, close\), or --open and --close"):
        load_backend(str(folder))


@pytest.mark.parametrize(
    "given", [PAIR, ("<mull>", "</mull>"), {"open": "<mull>", "close": "</mull>"}, ["<mull>", "</mull>"]]
)
def test_load_backend(folder: Path, given: Any) -> None:
    """However a pair is given, it is the model's, in process or on a server, once in a process."""
    backend = load_backend(str(folder), markers=given)
    assert backend.codec.markers.close_text == "</mull>"
    assert backend is load_backend(str(folder), markers=PAIR)
    served = load_backend("x", base_url="http://localhost:1/v1", tokenizer=str(folder), markers=given)
    several = "http://localhost:1/v1,http://localhost:2/v1"
    replicas = load_backend("x", base_url=several, tokenizer=str(folder), markers=given)
    assert served.codec.markers == replicas.codec.markers == backend.codec.markers


@pytest.mark.parametrize(
    "given", ["", "</mull>", ("", ""), ("<a>", "<a>"), {"open": "<a>"}, 3, ["<a>"], {"close": 3}]
)
def test_what_is_no_pair_is_refused(folder: Path, given: Any) -> None:
    """Bad input: a sentence that says what markers are."""
    with pytest.raises(InvalidMarkersError, match="what begins and ends thinking"):
        load_backend(str(folder), markers=given)


def test_known_pairs_have_names() -> None:
    """A profile by its name is the profile, and so is its text; names are different."""
    for known in KNOWN_MARKERS:
        assert marker_text(known.name) is known
        assert marker_text((known.open, known.close)) is known
    assert len({known.name for known in KNOWN_MARKERS}) == len(KNOWN_MARKERS)


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("kind", [ChatElasticReasoning, ElasticReasoningLLM])
def test_langchain(folder: Path, kind: Any) -> None:
    """A field of the models, which budgets, is saved and loaded, and is a part of what is cached."""
    model = kind(model=str(folder), markers=("<mull>", "</mull>"), thinking_budget=7, solution_budget=5)
    plain = kind(model="e1-tiny", thinking_budget=7, solution_budget=5)
    assert model._identifying_params["markers"] == ("<mull>", "</mull>")
    assert plain._identifying_params["markers"] is None
    again = load(dumpd(model), allowed_objects=[kind], valid_namespaces=["elastic_agent"])
    assert again.markers == PAIR
    assert dumpd(model)["kwargs"]["markers"] == {"open": "<mull>", "close": "</mull>"}
    assert kind(model=str(folder), markers={"open": "<mull>", "close": "</mull>"}).markers == PAIR
    with pytest.raises(ValueError, match="what begins and ends thinking"):
        kind(model=str(folder), markers="<mull>")


def test_a_call_is_budgeted(folder: Path) -> None:
    """Law 3 with markers of one's own: random weights, and no thinking token more than was asked for."""
    model = ChatElasticReasoning(
        model=str(folder), markers=("<mull>", "</mull>"), thinking_budget=7, solution_budget=5
    )
    said = model.invoke("how many?")
    assert said.usage_metadata is not None
    assert said.usage_metadata["output_token_details"]["reasoning"] <= 7
    assert said.response_metadata["usage"]["solution"] <= 5


def test_ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's options; without them, one sentence and status 2."""
    asked = ["ask", "how many?", "--model", str(folder), "--thinking", "7", "--solution", "5"]
    assert main([*asked, *NAMED]) == 0
    assert "cut here" in capsys.readouterr().out
    assert main(asked) == 2
    assert "--open and --close" in capsys.readouterr().err


def test_eval(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same of `eval`."""
    asked = ["eval", "--model", str(folder), "--problems", "1", "--thinking", "4", "--solution", "4"]
    asked += ["--output", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "--open and --close" in capsys.readouterr().err
    assert main([*asked, *NAMED]) == 0


ROOMY = {"rollout": {"prompts": 4, "group": 2, "context": 400}}


def test_train(folder: Path, tmp_path: Path) -> None:
    """`markers:` of a config and the flags of `train`: validate, which `--check` is, wants them."""
    with pytest.raises(NoMarkersError, match="--open and --close"):
        validate(small(folder, tmp_path))
    config = small(folder, tmp_path, markers={"open": "<mull>", "close": "</mull>"}, **ROOMY)
    assert validate(config).markers.close_text == "</mull>"
    flags = parser(None).parse_args(["--base", str(folder), "--output", str(tmp_path), *NAMED])
    assert configure(flags).named_markers == PAIR
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load_config(str(tmp_path / "config.yaml")).named_markers == PAIR
    named = build({**config.model_dump(exclude_unset=True), "markers": "gpt-oss"})
    assert named.named_markers is marker_text("gpt-oss")


def test_training_refuses_a_start_that_is_not_the_models(folder: Path, tmp_path: Path) -> None:
    """A template that writes a start marker which isn't the one in use fails the check: its budgets would be
    ignored in silence."""
    made = tiny_model(tmp_path / "base", merging(prefill="<thinking>\n"))
    with pytest.raises(
        NoMarkersError, match=r"begins an answer with <thinking>.*'<think>'.*--open and --close"
    ):
        validate(small(made, tmp_path, markers={"open": "<think>", "close": "</think>"}))
    right = small(made, tmp_path, markers={"open": "<thinking>", "close": "</thinking>"}, **ROOMY)
    assert validate(right).markers.open_text == "<thinking>"


def test_serve_and_up(folder: Path) -> None:
    """Parts of `--upstream`; `up` hands its own on to the gateway, texts that begin like options, too."""
    fields = parse_upstream(f"x=http://localhost:1/v1,tokenizer={folder},open=<mull>,close=</mull>")
    found = UpstreamConfig(**fields).load()
    assert found.backend.codec.markers.open_text == "<mull>"
    with pytest.raises(ValueError, match="what ends it with close"):
        UpstreamConfig(**parse_upstream(f"x=http://localhost:1/v1,tokenizer={folder},open=<mull>"))
    command = Parser()
    add_marker_options(command)
    assert given_markers(command.parse_args(["--open=--a", "--close=-b"])) == MarkerText("--a", "-b")
    assert given_markers(command.parse_args(["--close", "magistral"])) is marker_text("magistral")
    assert given_markers(command.parse_args([])) is None
    with pytest.raises(UsageError, match="--close"):
        given_markers(argparse.Namespace(open="<a>", close=None))


def test_a_server(folder: Path) -> None:
    """The backend of a server takes them by itself."""
    backend = VllmServerBackend("x", "http://localhost:1/v1", tokenizer=str(folder), markers=PAIR)
    assert backend.codec.markers.close_text == "</mull>"
