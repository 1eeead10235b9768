"""A tokenizer by its files alone is the one that transformers makes of them: same ids, prompts, markers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import UnknownModelError
from elastic_agent.model_location import model_path
from elastic_agent.prompts import model_files
from elastic_agent.prompts.file_tokenizer import FileTokenizer
from elastic_agent.prompts.tokenizer import HFCodec, load_codec
from tests.core.prompts.test_profiles import FAMILIES
from tests.core.prompts.vocabularies import merging

TEXTS = ("hi there", "  2 apples,\n\n\tthen 5.", "<think>\nso.</think> <|im_end|>", "漢字 café 🙂", "")
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "what is <|im_end|> & </think>?"},
    {"role": "assistant", "content": "so it is."},
    {"role": "user", "content": "go on 'now' <b>"},
]
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "description": "é<"}}
]
TEMPLATES = {
    "tools and options": (
        "{%- if tools %}TOOLS {{ tools | tojson }} {{ tools | tojson(indent=2) }}{% endif %}\n"
        "{% for m in messages %}{% if loop.last %}{% continue %}{% endif %}{{ bos_token }}<|im_start|>"
        "{{ m.role }} "
        "{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ colour is defined }}"
    ),
    "generation": (
        "{% for m in messages %}<|im_start|>{% generation %}{{ m.content }}{% set x = 1 %}{% endgeneration %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transformers were not installed."""
    there = importlib.util.find_spec
    monkeypatch.setattr(
        model_files, "find_spec", lambda name: None if name == "transformers" else there(name)
    )


def both(folder: str | Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[HFCodec, HFCodec]:
    """The codec by transformers, and by the files alone."""
    theirs = load_codec(folder, **options)
    with monkeypatch.context() as patch:
        patch.setattr(model_files, "find_spec", lambda name: None)
        ours = load_codec(folder, **options)
    assert isinstance(ours.tokenizer, FileTokenizer)
    assert not isinstance(theirs.tokenizer, FileTokenizer)
    return theirs, ours


def compared(theirs: HFCodec, ours: HFCodec, chat: list[dict[str, Any]] = CHAT) -> None:
    """Everything that a call asks of a codec."""
    assert ours.markers == theirs.markers
    assert ours.bytes_per_token == theirs.bytes_per_token
    assert ours.tool_ids == theirs.tool_ids
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, tool_tags=True) == theirs.decode(ids, tool_tags=True)
    for tools in (None, TOOLS):
        assert ours.encode_chat(chat, tools=tools) == theirs.encode_chat(chat, tools=tools)


def test_the_embedded_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """e1-tiny reads and writes the same."""
    compared(*both(model_path("e1-tiny"), monkeypatch))


@pytest.mark.parametrize("name", FAMILIES)
def test_each_known_family(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their control tokens and the gist of their templates."""
    family = FAMILIES[name]
    merging(controls=family.controls, template=family.template).save_pretrained(str(tmp_path))
    compared(*both(tmp_path, monkeypatch), chat=[CHAT[1], CHAT[2], CHAT[3]])


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_templates_use(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags, filters and variables that transformers adds to Jinja's own; in the configuration, too."""
    merging(controls=("<think>", "</think>"), template=TEMPLATES[name]).save_pretrained(str(tmp_path))
    compared(*both(tmp_path, monkeypatch))
    (tmp_path / "chat_template.jinja").unlink()
    path = tmp_path / "tokenizer_config.json"
    several = [{"name": "default", "template": TEMPLATES[name]}, {"name": "rag", "template": "x"}]
    for form in (TEMPLATES[name], several):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": form}))
        compared(*both(tmp_path, monkeypatch))


def test_a_template_that_refuses_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`raise_exception` of a template is the same error by both."""
    template = "{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}<|im_start|>"
    merging(controls=("<think>", "</think>"), template=template).save_pretrained(str(tmp_path))
    for codec in both(tmp_path, monkeypatch):
        with pytest.raises(Exception, match="one at a time"):
            codec.encode_chat(CHAT)


@pytest.mark.usefixtures("without")
def test_what_needs_transformers_says_so(tmp_path: Path) -> None:
    """No tokenizer.json, or one that can't be read."""
    with pytest.raises(UnknownModelError, match="pip install transformers"):
        load_codec(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnknownModelError, match="no tokenizer"):
        load_codec(tmp_path)


def test_a_served_model_needs_no_transformers() -> None:
    """A client of a vLLM server, in a program that can't import transformers or torch."""
    code = (
        "import sys\n"
        "for name in ('transformers', 'torch'): sys.modules[name] = None\n"
        "import importlib.util as u\n"
        "there = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('transformers', 'torch') else there(name, *a)\n"
        "from elastic_agent import ChatElasticReasoning\n"
        "from langchain_core.messages import HumanMessage\n"
        "llm = ChatElasticReasoning(model='e1-tiny', base_url='http://localhost:1/v1')\n"
        "print(llm.get_num_tokens_from_messages([HumanMessage('it sells 12')]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    asked = [{"role": "user", "content": "it sells 12"}]
    assert int(done.stdout) == len(load_codec(model_path("e1-tiny")).encode_chat(asked))
