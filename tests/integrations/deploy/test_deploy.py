"""What stands in deploy/: each option, field and metric that the files name is there, and they agree.

Linters of their own (hadolint, promtool, ...) are run by hand: docs/deploy.md says how.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from elastic_agent.cli_arguments import Parser
from elastic_agent.integrations.commands import serve
from elastic_agent.integrations.commands.serve_config import read_config
from elastic_agent.integrations.gateway.ops.metrics import Metrics
from elastic_agent.integrations.gateway.settings import Limits
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
NAME = re.compile(r"elastic_(?:agent|gateway)_[a-z_]+")
SUFFIXES = ("", "_bucket", "_count", "_sum", "_total")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (DEPLOY / ".env.example").read_text().splitlines():
        if (name := line.partition("=")[0]) and not line.startswith("#"):
            monkeypatch.setenv(name, "x")


def read(*arguments: str) -> Any:
    """The config of these arguments of `elastic-agent`, whose file is the one in deploy/."""
    assert arguments[0] == "serve"
    parser = Parser()
    serve.add_command(parser.add_subparsers())
    here = [str(DEPLOY / "gateway.yaml") if a == "/etc/elastic-agent/gateway.yaml" else a for a in arguments]
    return read_config(parser.parse_args(here))


def commands() -> dict[str, list[str]]:
    """The arguments of `elastic-agent` in each file."""
    (line,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    found = {"Dockerfile": json.loads(line)}
    deployment = documents("kubernetes/gateway.yaml")[0]
    found["kubernetes"] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    unit = (DEPLOY / "systemd/elastic-agent.service").read_text()
    for name, command in re.findall(r"^(ExecStart\w*)=\S+ (.*)$", unit, re.MULTILINE):
        found[name] = shlex.split(command)
    return found


def test_every_command_reads_the_config(secrets: None) -> None:
    """Each file's command is one that `serve` takes, and the config in deploy/ is right."""
    found = commands()
    assert set(found) == {"Dockerfile", "kubernetes", "ExecStart", "ExecStartPre"}
    for arguments in found.values():
        config = read(*arguments)
        assert config.host == "0.0.0.0"
        assert config.workers > 1
    assert "--check" in found["ExecStartPre"]


def metric_names() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        names |= {family.name + suffix for suffix in SUFFIXES}
    return names


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/elastic-agent.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    groups = documents("prometheus/alerts.yml")[0]["groups"]
    return shown + [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_metric_on_the_screen_and_in_alerts_exists() -> None:
    """By the names that a gateway registers."""
    named = {name for text in expressions() for name in NAME.findall(text)}
    assert len(named) > 10
    assert named <= metric_names()


def test_labels_of_the_screen_exist() -> None:
    """A label that a metric doesn't have would show an empty panel."""
    registry = Metrics().registry
    labels = {
        f"{family.name}{suffix}": set(collector._labelnames) | {"le"}  # type: ignore[attr-defined]
        for collector in registry._collector_to_names
        for family in collector.describe()
        for suffix in SUFFIXES
    }
    for text in expressions():
        used = {label.strip() for by in re.findall(r"by \(([^)]*)\)", text) for label in by.split(",")}
        used |= set(re.findall(r"(\w+)=", " ".join(re.findall(r"\{([^}]*)\}", text))))
        for name in NAME.findall(text):
            assert used <= labels[name], (text, used - labels[name])


def test_ports_paths_and_graces_agree() -> None:
    """The files speak of one port, one user, one place of the config, and wait longer than the grace."""
    compose, docker = documents("compose.yaml")[0], (DEPLOY / "Dockerfile").read_text()
    deployment, service, _ = documents("kubernetes/gateway.yaml")
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["ports"][0]["containerPort"] == 8100
    assert "EXPOSE 8100" in docker
    assert compose["services"]["gateway"]["ports"] == ["127.0.0.1:8100:8100"]
    assert documents("prometheus/prometheus.yml")[0]["scrape_configs"][0]["static_configs"] == [
        {"targets": ["gateway:8100"]}
    ]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert "USER 10001:10001" in docker
    assert compose["services"]["gateway"]["volumes"][0].endswith(":/etc/elastic-agent/gateway.yaml:ro")
    grace = documents("gateway.yaml")[0]["limits"]["grace_seconds"]
    assert grace == Limits().grace_seconds
    assert pod["terminationGracePeriodSeconds"] > grace + 15
    assert int(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s")) > grace + 15
    unit = (DEPLOY / "systemd/elastic-agent.service").read_text()
    assert int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) > grace + 15


def test_every_variable_is_in_the_example_and_every_mount_is_there() -> None:
    """compose.yaml names no variable that .env.example leaves out, and mounts nothing that isn't there."""
    text = (DEPLOY / "compose.yaml").read_text()
    example = (DEPLOY / ".env.example").read_text()
    named = set(re.findall(r"\$\{(\w+)", text + (DEPLOY / "gateway.yaml").read_text()))
    assert named == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    for one in documents("compose.yaml")[0]["services"].values():
        for mount in one.get("volumes", ()):
            source = mount.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    """The build's context has what the Dockerfile copies."""
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split():
            assert Path(ROOT / source).exists(), source
            assert f"!{source}" in ignored
