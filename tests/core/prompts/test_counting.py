"""A count of a hosted model's prompt is never below what the model reads, and says what it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
import tiktoken_ext.openai_public as public
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from elastic_agent.errors import UncountablePromptError
from elastic_agent.prompts import counting
from elastic_agent.prompts.counting import Count, count_prompt
from elastic_agent.prompts.tokenizer import HFCodec
from tests.core.prompts.test_tokenizer import tokenizer
from tools.e1_tiny.tokenizer import build_tokenizer

CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.\nSlowly.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "number", "description": "the first"},
                "how": {"type": "string", "enum": ["up", "down"]},
            },
            "required": ["a"],
        },
    },
}
HELLO = [{"role": "user", "content": "Hello"}]


def small_encoding() -> tiktoken.Encoding:
    """o200k_base's way of splitting text, with a dozen merges."""
    # As tiktoken has it; its own pieces come with a file that is not here
    words = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ll)?"
    rest = [r"\p{L}+", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]
    ranks = {bytes([i]): i for i in range(256)}
    for merge in (b"aa", b"th", b"he", b"the", b"aaaa", b"in", b"er", b"  ", b"    ", b"ll", b"llo", b'":'):
        ranks[merge] = len(ranks)
    return tiktoken.Encoding(
        "small",
        pat_str="|".join([words, *rest]),
        mergeable_ranks=ranks,
        special_tokens={"<|end|>": len(ranks)},
    )


SMALL = small_encoding()
TINY = HFCodec(build_tokenizer(), model="e1-tiny")
QWEN = HFCodec(tokenizer())
NFKC = HFCodec(tokenizer(normalizer=normalizers.NFKC()))
BY_TIKTOKEN, BY_BYTES = ("gpt-4o", SMALL), ("nobody's-model", None)
each_way = pytest.mark.parametrize(("model", "encoding"), [BY_TIKTOKEN, BY_BYTES], ids=["tiktoken", "bytes"])

# Hard on bounds: combining marks, joined emoji, halves of pairs, what NFKC makes eleven times as long
texts = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["the ", "aaaa", " \n", "\r\n\t", "é́", "👩‍🚀", "\ud800", "ﷺ", "<|end|>", '"\\', "\0", "中文"]
        ),
        max_size=20,
    ).map("".join),
)
whole = texts.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


def schemas(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        st.fixed_dictionaries({"type": st.sampled_from(["string", "number"]), "description": text})
        | st.fixed_dictionaries({"enum": st.lists(text, max_size=3)}),
        lambda inner: st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(text, inner, max_size=3)}
        ),
        max_leaves=6,
    )


def tool(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema},
    }


def typescript(schema: dict[str, Any], indent: str = "") -> str:
    """A schema as OpenAI's models are shown one (openai/harmony), more generous with blanks."""
    if "properties" in schema:
        rows = [
            "\n".join(f"{indent}  // {line}" for line in inner.get("description", "").splitlines())
            + f"\n{indent}  {key}?: {typescript(inner, indent + '  ')},"
            for key, inner in schema["properties"].items()
        ]
        return "{\n" + "\n".join(rows) + f"\n{indent}}}"
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    return str(schema["type"])


@given(texts)
def test_bytes_bound_the_text_for_tiktoken(text: str) -> None:
    """A byte-level BPE never gives more tokens than bytes; a plain prompt is exact where it is known."""
    counted = count_prompt("davinci-002", text, encoding=SMALL)
    assert counted == Count(len(SMALL.encode_ordinary(text)), "exact", "text by small")
    bound = count_prompt("nobody's-model", text)
    assert bound.how == "bound"
    assert bound.tokens >= counted.tokens + counting.OTHER.request


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), whole), min_size=1, max_size=4),
    st.none() | schemas(whole),
)
@pytest.mark.parametrize("codec", [TINY, QWEN, NFKC], ids=["e1-tiny", "qwen", "nfkc"])
def test_the_bound_holds_for_tokenizers_with_a_template(
    codec: HFCodec, turns: list[tuple[str, str]], schema: dict[str, Any] | None
) -> None:
    """Models whose template we do have: what they really read is within the bound made without it."""
    messages: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in turns]
    tools = None
    if schema is not None and codec is not TINY:  # whose template has no tools
        messages.append({"role": "assistant", "content": "", "tool_calls": [CALL]})
        tools = [tool("look", "Looks.", schema)]
    bound = count_prompt("nobody's-model", messages, tools)
    assert len(codec.encode_chat(messages, tools=tools)) <= bound.tokens


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), texts, st.none() | texts), max_size=5
    )
)
def test_messages_are_at_least_what_openai_documents(turns: list[tuple[str, str, str | None]]) -> None:
    """Its cookbook's 3 or 4 a message, 1 a name, 3 for the answer; and 1 a message reported as missing."""
    messages = [
        {"role": role, "content": content, **({} if name is None else {"name": name})}
        for role, content, name in turns
    ]
    text = sum(len(SMALL.encode_ordinary(value)) for message in messages for value in message.values())
    documented = 3 + sum(5 + ("name" in message) for message in messages) + text
    counted = count_prompt("gpt-4o", messages, encoding=SMALL)
    assert counted.how == "bound"
    assert documented <= counted.tokens


def test_a_known_encoding_makes_the_bound_tight() -> None:
    """Not a bound by being absurd: at most a tenth more than the model reads, and less than by bytes."""
    text = "the aaaa hello there " * 500
    truth = len(SMALL.encode_ordinary(text))
    counted = count_prompt("gpt-4o", [{"role": "user", "content": text}], encoding=SMALL)
    assert truth < counted.tokens < 1.1 * truth
    assert counted.tokens < count_prompt("nobody's-model", [{"role": "user", "content": text}]).tokens


@each_way
@given(name=texts, description=texts, schema=schemas(texts))
def test_tools_are_bounded_however_they_are_rewritten(
    model: str, encoding: tiktoken.Encoding | None, name: str, description: str, schema: dict[str, Any]
) -> None:
    """As TypeScript, as JSON, indented or escaped: what is shown to the model fits into what was counted."""
    given_tool = tool(name, description, schema)
    bound = count_prompt(model, HELLO, [given_tool], encoding=encoding).tokens
    bound -= count_prompt(model, HELLO, encoding=encoding).tokens
    comment = "\n".join(f"// {line}" for line in description.splitlines())
    for shown in (
        f"namespace functions {{\n\n{comment}\ntype {name} = (_: {typescript(schema)}) => any;\n\n}}",
        json.dumps(given_tool),
        json.dumps(given_tool, indent=2, ensure_ascii=False),
    ):
        assert len(SMALL.encode_ordinary(shown)) <= bound


@each_way
def test_lines_of_a_tool_are_comments_each(model: str, encoding: tiktoken.Encoding | None) -> None:
    """OpenAI's rewriting begins every line of a description with slashes."""
    lines = "a\n" * 500
    bound = count_prompt(model, HELLO, [tool("look", lines, {})], encoding=encoding).tokens
    assert len(SMALL.encode_ordinary("".join(f"  // {line}" for line in lines.splitlines(True)))) <= bound


def test_a_tokenizer_that_normalises_is_bounded() -> None:
    """NFKC makes 33 bytes out of one character of 3."""
    messages = [{"role": "user", "content": "ﷺ" * 500}]
    read = len(NFKC.encode_chat(messages))
    assert read > 33 * 500
    assert read <= count_prompt("nobody's-model", messages).tokens


@each_way
def test_calls_of_tools_and_their_results_count(model: str, encoding: tiktoken.Encoding | None) -> None:
    """Everything that goes over the wire costs: calls, results, thinking; in two shapes."""
    plain = count_prompt(model, [{"role": "assistant", "content": "Hello"}], encoding=encoding).tokens
    result = {
        "type": "tool_result",
        "tool_use_id": "call_1",
        "content": [{"type": "text", "text": "the " * 50}],
    }
    for more in (
        {"role": "assistant", "content": "Hello", "tool_calls": [CALL]},
        {"role": "assistant", "content": "Hello", "reasoning_content": "the " * 50},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Hello"}, {"type": "tool_use", "input": {"a": 1}}],
        },
        {"role": "user", "content": [result]},
    ):
        assert count_prompt(model, [more], encoding=encoding).tokens > plain + 10


@each_way
def test_what_is_empty_counts_its_framing(model: str, encoding: tiktoken.Encoding | None) -> None:
    """No messages, no content, no tools: not nothing, since the answer is primed."""
    none = count_prompt(model, [], encoding=encoding).tokens
    assert none > 3
    assert count_prompt(model, [], [], encoding=encoding).tokens == none
    assert count_prompt(model, [{"role": "assistant", "content": None}], encoding=encoding).tokens > none


@pytest.mark.parametrize("text", ["a", " ", "\n", " \t", "1", "!", "Aa", "é", "👩‍🚀", "ﷺ", "the cat "])
@each_way
def test_a_megabyte_is_counted(model: str, encoding: tiktoken.Encoding | None, text: str) -> None:
    """The shapes that are hard on tokenizers end: in a moment, or in a test's time limit."""
    text *= 1_000_000 // len(text.encode())
    counted = count_prompt(model, [{"role": "user", "content": text}], encoding=encoding).tokens
    if encoding is not None and not text.isspace():
        assert counted >= len(encoding.encode_ordinary(text))
    else:
        assert counted >= len(text.encode())


def test_a_long_run_of_blanks_is_a_bound_even_for_a_plain_prompt() -> None:
    """tiktoken would panic: such a text is bounded by its bytes, and says so."""
    assert count_prompt("davinci-002", "the " + " " * 1_000_000, encoding=SMALL).how == "bound"


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "image_url"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "input_audio"),
        ({"type": "file", "file": {"file_id": "f"}}, "file"),
        ({"type": "document", "source": {}}, "document"),
        ({"type": "tool_result", "content": [{"type": "image", "source": {}}]}, "image"),
        ({"inline_data": {}}, "inline_data"),
    ],
)
def test_what_has_no_bound_is_refused_until_it_is_allowed_for(part: dict[str, Any], kind: str) -> None:
    """Law 8: an image's tokens are not in the request; the error names what to set, and that is then held."""
    messages = [{"role": "user", "content": ["Look: ", part]}]
    with pytest.raises(UncountablePromptError, match=f"allow={{'{kind}': N}}"):
        count_prompt("gpt-4o", messages)
    few, many = (count_prompt("gpt-4o", messages, allow={kind: tokens}).tokens for tokens in (0, 1105))
    assert many - few == 1105


def test_a_message_with_a_key_that_nobody_knows_is_refused() -> None:
    """An answer's audio, say, is named by an id alone."""
    with pytest.raises(UncountablePromptError, match=r"allow={'audio': N}"):
        count_prompt("gpt-4o", [{"role": "assistant", "content": None, "audio": {"id": "audio_1"}}])
    assert count_prompt("gpt-4o", [{"role": "assistant", "content": "Hello", "audio": None}]).tokens > 0


def test_a_providers_own_tool_is_refused() -> None:
    """What it is described with, and what it puts into the prompt, only the provider knows."""
    search = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(UncountablePromptError, match="web_search_20250305"):
        count_prompt("claude-sonnet-4-5", HELLO, [search])
    allowed = count_prompt("claude-sonnet-4-5", HELLO, [TOOL, search], allow={"web_search_20250305": 5000})
    assert allowed.tokens > count_prompt("claude-sonnet-4-5", HELLO, [TOOL]).tokens + 4999


@pytest.mark.parametrize("message", ["Hello", {"role": "user", "content": [b"Hello"]}, {"role": b"user"}])
def test_what_is_not_on_the_wire_is_refused(message: Any) -> None:
    """A message object of some framework, or bytes: nobody knows what would be sent."""
    with pytest.raises(UncountablePromptError, match="wire"):
        count_prompt("gpt-4o", [message])


def test_a_negative_allowance_is_refused() -> None:
    """It would take from what was counted."""
    with pytest.raises(ValueError, match="at least 0 tokens"):
        count_prompt("gpt-4o", HELLO, allow={"image_url": -1})


# (model, messages, tools, prompt tokens by the provider's own count, in its own documentation)
BILLED: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]] | None, int]] = [
    (
        "gpt-4-0613",  # OpenAI cookbook, "How to count tokens with tiktoken"
        [
            {
                "role": "system",
                "content": "You are a helpful, pattern-following assistant that translates corporate jargon "
                "into plain English.",
            },
            {
                "role": "system",
                "name": "example_user",
                "content": "New synergies will help drive top-line growth.",
            },
            {
                "role": "system",
                "name": "example_assistant",
                "content": "Things working well together will increase revenue.",
            },
            {
                "role": "system",
                "name": "example_user",
                "content": "Let's circle back when we have more bandwidth to touch base on opportunities for "
                "increased leverage.",
            },
            {
                "role": "system",
                "name": "example_assistant",
                "content": "Let's talk later when we're less busy about how to do better.",
            },
            {
                "role": "user",
                "content": "This late pivot means we don't have time to boil the ocean for the client "
                "deliverable.",
            },
        ],
        None,
        129,
    ),
    (
        "claude-opus-5",  # platform.claude.com, "Token counting"
        [
            {"role": "system", "content": "You are a scientist"},
            {"role": "user", "content": "Hello, Claude"},
        ],
        None,
        14,
    ),
    (
        "claude-opus-5",
        [{"role": "user", "content": "What's the weather like in San Francisco?"}],
        [
            {
                "name": "get_weather",
                "description": "Get the current weather in a given location",
                "input_schema": {
                    "type": "object",
                    "properties": {
                        "location": {
                            "type": "string",
                            "description": "The city and state, e.g. San Francisco, CA",
                        }
                    },
                    "required": ["location"],
                },
            }
        ],
        403,
    ),
]


@pytest.mark.parametrize(("model", "messages", "tools", "billed"), BILLED)
def test_what_providers_really_counted_is_within_the_bound(
    model: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, billed: int
) -> None:
    """Their documentation's own examples."""
    assert billed <= count_prompt(model, messages, tools).tokens


def test_claude_with_tools_holds_its_system_prompt() -> None:
    """Anthropic documents up to 530 tokens that it adds where there are tools."""
    with_tools, without = (count_prompt("anthropic/claude-3-opus", HELLO, t).tokens for t in ([TOOL], None))
    assert with_tools - without > 530


@pytest.fixture
def no_encodings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which tiktoken has nothing; that it asks the network is an error of the test."""

    def never(address: str) -> bytes:
        raise AssertionError(f"asked the network for {address}")

    monkeypatch.setattr(tiktoken.load, "read_file", never)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "model", ["gpt-4o", "openai/gpt-5-mini", "azure/gpt-4", "gpt-oss-20b", "davinci-002"]
)
def test_an_encoding_that_is_not_here_is_not_fetched(no_encodings: Path, model: str) -> None:
    """A count never waits for a download: it is a bound by bytes, and says how to get a better one."""
    counted = count_prompt(model, HELLO)
    assert counted.how == "bound"
    assert "tiktoken.get_encoding(" in counted.why
    assert not list(no_encodings.iterdir())


@pytest.mark.parametrize(
    "model", ["claude-sonnet-4-5", "gemini-2.5-pro", "Qwen/Qwen3-8B", "my-deployment", ""]
)
def test_a_model_without_an_encoding_is_bounded_by_bytes(no_encodings: Path, model: str) -> None:
    """It says so."""
    assert count_prompt(model, HELLO).why.startswith("one token a byte, since tiktoken has no encoding for")


def test_an_encoding_that_is_loaded_is_used(no_encodings: Path) -> None:
    """Whoever has called tiktoken.get_encoding once has it."""
    tiktoken.registry.ENCODINGS["o200k_base"] = SMALL
    text = "the aaaa " * 100
    counted = count_prompt("openai/gpt-4o", [{"role": "user", "content": text}])
    assert counted.why.startswith("text by o200k_base")
    assert counted.tokens < len(text)


@pytest.mark.parametrize("name", counting._FILES)
def test_files_are_looked_for_where_tiktoken_keeps_them(
    no_encodings: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its own code is asked for the addresses and writes the file; ours must find that one."""
    assert not counting._cached(name)
    fetched = []

    def load(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
        fetched.append(address)
        monkeypatch.setattr(tiktoken.load, "read_file", lambda _: b"")
        tiktoken.load.read_file_cached(address)
        return {}

    monkeypatch.setattr(public, "load_tiktoken_bpe", load)
    getattr(public, name)()
    assert len(fetched) == 1
    assert counting._cached(name)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # tiktoken keeps none then
    assert not counting._cached(name)


def test_a_damaged_file_is_a_bound(no_encodings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken cache costs tightness, not the call."""
    monkeypatch.setattr(counting, "_cached", lambda name: True)
    counted = count_prompt("gpt-4o", HELLO)
    assert counted.how == "bound"
    assert "could not load o200k_base" in counted.why
