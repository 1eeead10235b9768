"""The config of `serve`: a file says what the options say; what is wrong is named before anything loads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.cli_arguments import Parser
from elastic_agent.errors import ConfigError
from elastic_agent.integrations.commands import serve
from elastic_agent.integrations.commands.main import main
from elastic_agent.integrations.commands.serve_config import (
    SCHEMA,
    ServeConfig,
    check_reload,
    read_config,
)
from elastic_agent.integrations.gateway.settings import Limits


def options(*arguments: object) -> argparse.Namespace:
    parser = Parser()
    serve.add_command(parser.add_subparsers())
    return parser.parse_args(["serve", *map(str, arguments)])


def config(*arguments: object) -> ServeConfig:
    return read_config(options(*arguments))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "host: 0.0.0.0\nledger: postgresql://elastic:${DB_PASSWORD}@db/spend\nmax_running: 8\n"
        "upstreams:\n"
        "  - {name: qwen, url: http://gpu1:8000/v1, price: 0.1:0.4, key: '${GPU_KEY}'}\n"
        "  - {name: e1-tiny}\n"
        "limits: {call_seconds: 300, tasks: 7}\n"
    )
    return path


def test_a_file_says_what_options_say_and_options_win(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "open sesame")
    monkeypatch.setenv("GPU_KEY", "sk-1")
    found = config("--config", file, "--port", 9, "--timeout", 60, "--max-waiting", 3)
    assert (found.host, found.port, found.max_running, found.max_waiting) == ("0.0.0.0", 9, 8, 3)
    assert (found.limits.call_seconds, found.limits.tasks) == (60, 7)
    assert found.place == "postgresql://elastic:open sesame@db/spend"
    assert found.upstreams[0].key is not None
    assert found.upstreams[0].key.get_secret_value() == "sk-1"
    assert "sesame" not in repr(found)
    assert "sk-1" not in repr(found)
    over = config("--config", file, "--upstream", "a=http://b/v1,served-as=c,price=1:2,key-env=GPU_KEY")
    assert [(one.name, one.url, one.served_as, one.price) for one in over.upstreams] == [
        ("a", "http://b/v1", "c", "1:2")
    ]


def test_every_option_is_a_field_and_every_limit_has_its_words() -> None:
    """Options that set no field are those that say what to do with the config."""
    known = set(ServeConfig.model_fields) | {f"limits.{name}" for name in Limits.__dataclass_fields__}
    not_fields = {"config", "check", "schema", "run", "limits"}
    of_one_upstream = {"upstream", "model", "base_url", "tokenizer", "api_key_file", "open", "close", "price"}
    parser = Parser()
    serve.add_command(parser.add_subparsers())
    command = next(iter(parser._subparsers._group_actions)).choices["serve"]  # type: ignore[union-attr, index]
    dests = {action.dest for action in command._actions} - {"help", "api_key"}
    assert dests - not_fields - of_one_upstream <= known
    assert set(ServeConfig.model_fields) - {"upstreams", "limits"} <= dests
    described = SCHEMA.section.model_json_schema()
    assert described["$defs"]["LimitsConfig"]["properties"]["body"]["description"]
    assert all(one.get("description") for one in described["properties"].values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_runing: 3", "there is no field max_runing: did you mean max_running?"),
        ("limits: {call_secons: 3}", "no field limits.call_secons: did you mean limits.call_seconds?"),
        ("limits: {body: 0}", "limits.body: must be at least 1"),
        ("upstreams: [{name: a, url: http://b/v1, tokeniser: c}]", "did you mean upstreams.tokenizer?"),
        ("upstreams: [{name: a, key: sk-plain}]", r"upstreams.0.key: must be \${VARIABLE}"),
        ("upstreams: [{name: a, key: '${NOT_THERE}'}]", "upstreams.0.key: needs NOT_THERE, which"),
        ("upstreams: [{name: a, open: <t>}]", "say what ends it with close"),
        ("upstreams: [{name: a, price: cheap}]", "upstreams.0.price"),
        ("upstreams: [{name: a}, {name: a}]", "two are called a"),
        ("upstreams: []", "at least one model"),
        ("upstreams: [{name: a, url: 'http://u:plain@b/v1'}]", "upstreams.0: url holds a password"),
        ("ledger: postgresql://me:plain@db/x", "ledger: holds a password"),
        ("host: ${HOST}", "host: can't name a variable of the environment: only ledger may"),
        (
            "{workers: 2, ledger: 'memory://', upstreams: [{name: a}]}",
            "workers: a ledger in memory is one process's own",
        ),
        ("{workers: 2, log: run.jsonl, upstreams: [{name: a}]}", "leave log out"),
        ("tell: 'no such {thing}'", "tell"),
        ("host: a\nhost: b", "host is given twice"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_is_shown(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    with pytest.raises((ConfigError, ValueError), match=said) as caught:
        config("--config", path)
    assert "plain" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_check_and_schema_stop_before_anything_is_loaded(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["serve", "--config", str(file), "--check"]) == 2
    assert "needs DB_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("DB_PASSWORD", "open sesame")
    monkeypatch.setenv("GPU_KEY", "sk-1")
    monkeypatch.setattr("elastic_agent.integrations.commands.upstreams.load_backend", None)
    assert main(["serve", "--config", str(file), "--check"]) == 0
    assert "serves qwen, e1-tiny" in capsys.readouterr().out
    assert main(["serve", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["upstreams"]
    assert main(["serve", "--check", "--base-url", "http://b/v1", "--config", str(file)]) == 2
    assert "--base-url: of which model?" in capsys.readouterr().err


def test_a_reload_may_change_models_and_limits_alone(file: Path) -> None:
    base: dict[str, Any] = {"upstreams": [{"name": "a"}]}
    old = SCHEMA.check(base)
    check_reload(old, SCHEMA.check({"upstreams": [{"name": "b"}], "limits": {"tasks": 3}}))
    with pytest.raises(ConfigError, match="port, max_running: can't change while the gateway runs"):
        check_reload(old, SCHEMA.check(base | {"port": 3, "max_running": 4}))
