"""The `trl` section: what is not ours reaches GRPOConfig and the run; of what is ours, our name is said."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

from elastic_agent.backends.transformers.attention import GROUPED
from elastic_agent.training.config.loading import SCHEMA, build, dump, load_config
from elastic_agent.training.config.trl_arguments import make_arguments
from elastic_agent.training.config.trl_fields import OURS, REFUSED
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.rollouts.engines import in_process
from elastic_agent.training.run import train
from tests.training.runs import EASY, SMALL, make_base, small


class _Recorded(dict[str, Any]):
    """Stands for GRPOConfig, and holds its arguments."""

    __dataclass_fields__: ClassVar[dict[str, Any]] = {}


def test_every_field_that_we_set_is_named_in_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete both ways: each argument of ours is refused, each name in the tables is one of GRPOConfig."""
    from trl import GRPOConfig

    config = build({**SMALL, "base": "e1-tiny-base", "output": "x"})
    known = {field.name for field in fields(GRPOConfig)}
    monkeypatch.setattr("trl.GRPOConfig", _Recorded)
    assert set(make_arguments(config, 8)) <= OURS.keys() | REFUSED.keys() <= known
    assert not OURS.keys() & REFUSED.keys()
    named = {name for text in OURS.values() for name in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", text)}
    assert named <= set(SCHEMA.paths())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rate": 1e-4}, "trl.learning_rate: set learning.rate instead"),
        ({"use_vllm": True}, "trl.use_vllm: set rollout.engine instead"),
        ({"top_k": 5}, "trl.top_k can't be set: rollouts are decoded by rollout.engine"),
        ({"scale_reward": "none"}, "no field 'scale_reward': did you mean scale_rewards?"),
        ({"adam_beta2": "high"}, "trl.adam_beta2: input should be a valid number.*not 'high'"),
        ({"optim": "adamm"}, "TRL refuses this config: adamm is not a valid OptimizerNames"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, "set device.precision instead"),
        ({"model_init_kwargs": {"attn_implementation": "eager"}}, "set device.attention instead"),
    ],
)
def test_what_is_ours_unknown_or_wrong_is_said_before_anything_is_loaded(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        validate(build({**SMALL, "base": "gone/gone", "output": "x", "trl": given}))


def test_what_trl_refuses_of_our_own_fields_is_one_sentence_too() -> None:
    with pytest.raises(ValueError, match="lineer is not a valid SchedulerType"):
        make_arguments(load_config("e1-tiny", ["learning.schedule=lineer"]), 192)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ({"attention": "flash"}, "device.attention: input should be 'sdpa'"),
        ({"attention": "flash_attention_2"}, "set device.precision=bfloat16"),
        (
            {"attention": "flash_attention_2", "precision": "bfloat16"},
            "needs the package flash-attn, which this Python lacks",
        ),
    ],
)
def test_attention_that_is_not_there_is_said_before_anything_is_loaded(
    device: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastic_agent.training.grpo.attention.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=said):
        validate(build({**SMALL, "base": "gone/gone", "output": "x", "device": device}))


def test_the_section_reaches_the_trainer_and_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "optim": "sgd",
        "importance_sampling_level": "sequence",
        "scale_rewards": False,
        "top_entropy_quantile": 0.5,
        "model_init_kwargs": {"attention_dropout": 0.125},
    }
    attention = {"device": {"attention": "eager"}, "learning": {"kl": 0.01}}
    config = small(
        make_base(tmp_path / "base"),
        tmp_path / "out",
        steps=1,
        trl=given,
        reward={"kind": EASY},
        **attention,
    )
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load_config(str(tmp_path / "config.yaml")) == config
    masks: list[str] = []
    decoding = in_process.decoding_attention

    @contextmanager
    def noted(model: Any) -> Iterator[None]:
        with decoding(model):
            masks.append(model.config._attn_implementation)
            yield

    monkeypatch.setattr(in_process, "decoding_attention", noted)
    trainer = train(config, log=lambda _: None)
    assert type(trainer.optimizer.optimizer).__name__ == "SGD"
    assert (trainer.importance_sampling_level, trainer.scale_rewards) == ("sequence", "none")
    assert trainer.model.config.attention_dropout == 0.125
    assert trainer.model.config._attn_implementation == "eager"
    assert trainer.ref_model.config._attn_implementation == "eager"
    assert set(masks) == {GROUPED}, "rollouts decode with torch's attention"
    assert not trainer.skips_idle, "the quantile is one of the entropies of all rows"
