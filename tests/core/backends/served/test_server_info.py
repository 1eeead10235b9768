"""Addresses as people paste them, servers that are something else, models that nobody has: said at once."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from elastic_agent import Budget, model_location
from elastic_agent.backends.load import _load, load_backend
from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.backends.served import server_info
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.errors import (
    BackendError,
    BackendProtocolError,
    BackendUnavailableError,
    UnknownModelError,
)
from elastic_agent.generation.generate import generate
from elastic_agent.model_location import model_path
from tests.wire import Faults, serve_in_thread


@pytest.mark.parametrize(
    "pasted",
    [
        "http://h:8000/v1",
        "http://h:8000",
        "http://h:8000/",
        "http://h:8000/v1/",
        " http://h:8000/v1//\n",
        "http://h:8000//v1",
        "http://h:8000/v1/chat/completions",
        "http://h:8000/v1/chat/completions/",
        "http://h:8000/v1/completions",
        "http://h:8000/v1/models",
        "http://h:8000/v1/responses",
        "http://h:8000/health",
        "http://h:8000/metrics",
        "HTTP://h:8000/v1",
    ],
)
def test_an_address_is_taken_as_people_paste_it(pasted: str) -> None:
    """Without /v1, with slashes, with an endpoint at its end."""
    assert server_info.address(pasted) == "http://h:8000/v1"


def test_a_path_of_ones_own_is_kept() -> None:
    """A proxy's."""
    assert server_info.address("https://h/llm/v1/") == "https://h/llm/v1"
    assert server_info.address("https://user@h/openai") == "https://user@h/openai"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("localhost:8000", r"like http://localhost:8000; got 'localhost:8000'"),
        ("localhost:8000/v1", r"like http://localhost:8000/v1;"),
        ("", "must begin with"),
        ("ftp://h/v1", "must begin with"),
        ("http://", "must begin with"),
        ("http://h:port/v1", "is no URL"),
        ("http://h:99999/v1", "is no URL"),
        ("http://h/v1?key=1", "no .query"),
    ],
)
def test_what_is_no_address_says_so(wrong: str, said: str) -> None:
    """With an example that is near."""
    with pytest.raises(UnknownModelError, match=said):
        VllmServerBackend("m", wrong, codec=ScriptedCodec())


def test_it_works_without_v1() -> None:
    """The fault: a bare 404."""
    upstream = ScriptedBackend(Reply("t", "yes"))
    with serve_in_thread(upstream) as wire:
        for pasted in (wire.base_url.removesuffix("/v1"), f"{wire.base_url}/chat/completions"):
            client = VllmServerBackend("scripted", pasted, codec=upstream.codec)
            said = asyncio.run(generate(client, "q", Budget(4, 4)))
            assert said.solution.strip() == "yes"


class Something(BaseHTTPRequestHandler):
    """Answers everything in the same way."""

    status, kind, text = 200, "application/json", "{}"

    def _answer(self) -> None:
        if length := int(self.headers.get("Content-Length") or 0):
            self.rfile.read(length)
        body = self.text.encode()
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *args: object) -> None:
        """Not to standard error."""


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[ThreadingHTTPServer] = []

    def start(text: str, status: int = 200, kind: str = "application/json") -> str:
        handler = type("Handler", (Something,), {"status": status, "kind": kind, "text": text})
        running.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}/v1"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


PAGE = "<!DOCTYPE html><html><body>Welcome to nginx!</body></html>"
OLLAMA = (
    '{"object": "list", "data": [{"id": "llama3.2", "object": "model", "created": 1, "owned_by": "library"}]}'
)
LLAMA_CPP = (
    '{"data": [{"id": "model.gguf", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx_train": 9}}]}'
)

ANSWERS = {
    "nothing there": ("404 page not found", 404, "", r"404 at {url}.*base_url is up to and with /v1"),
    "no such path": ('{"detail":"Not Found"}', 404, "", r"404 at {url}.*base_url is up to and with /v1"),
    "no key": ('{"error": "Unauthorized"}', 401, "", r"401 at {url}.*api_key="),
    "wrong key": ('{"error": "no"}', 403, "", r"403 at {url}.*ELASTIC_AGENT_API_KEY"),
    "a page": (PAGE, 200, "text/html", r"{url} did not answer like an OpenAI server, but with a web page"),
    "a page that is an error": (PAGE, 502, "text/html", r"502 at {url} \(a web page\)"),
    "https": ("<h1>400 The plain HTTP request was sent to HTTPS port</h1>", 400, "", r"begins with https://"),
    "not JSON": ("OK", 200, "text/plain", r"{url} did not answer like an OpenAI server, but with 'OK'"),
    "another JSON": ('{"status": "ok"}', 200, "", r"{url} did not answer like an OpenAI server"),
    "Ollama": (OLLAMA, 200, "", r"does not serve 'm'; it serves llama3.2.*guard\("),
    "llama.cpp": (LLAMA_CPP, 200, "", r"does not serve 'm'; it serves model.gguf.*guard\("),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("when", ["first", "ready"])
def test_a_server_that_is_something_else_is_named_with_what_to_do(
    serve: Serve, answer: str, when: str
) -> None:
    """When its tokenizer is looked for, and when it is first asked."""
    text, status, kind, said = ANSWERS[answer]
    base_url = serve(text, status, kind or "application/json")
    said = said.replace("{url}", f"{base_url}/models")
    with pytest.raises((BackendError, UnknownModelError), match=said):
        meet(base_url, when)


def meet(base_url: str, when: str) -> None:
    """Look for the tokenizer of a served model, or, where it is known, ask whether the server is there."""
    if when == "first":
        VllmServerBackend("m", base_url)
    else:
        asyncio.run(VllmServerBackend("m", base_url, codec=ScriptedCodec()).ready())


def test_a_server_that_takes_no_ids_points_to_guard() -> None:
    """Ollama's words; ChatOpenAI on it works, under guard."""
    text = (
        '{"error": {"message": "json: cannot unmarshal array into Go struct field .prompt of type string"}}'
    )
    upstream = ScriptedBackend(Reply("t", "yes"))
    with serve_in_thread(upstream, faults=Faults(status=400, body=text)) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=upstream.codec)
        with pytest.raises(BackendError, match=rf"400 at {wire.base_url}/completions.*no token ids.*guard\("):
            asyncio.run(generate(client, "q", Budget(4, 4)))


@pytest.mark.parametrize("when", ["first", "ready"])
def test_a_server_that_is_not_there_says_why(when: str) -> None:
    """A wrong port, a wrong scheme, something else that listens, an unknown host."""

    def said(base_url: str) -> str:
        with pytest.raises(BackendUnavailableError) as caught:
            meet(base_url, when)
        assert base_url in str(caught.value)
        return str(caught.value)

    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        assert "on this host and port?" in said(f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
    assert "nobody knows this host" in said("http://no-such-host.invalid/v1")
    with serve_in_thread(ScriptedBackend()) as wire:
        assert "begins with http://" in said(wire.base_url.replace("http://", "https://"))
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            connection, _ = other.accept()
            connection.recv(10_000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        assert "speaks no HTTP" in said(f"http://127.0.0.1:{other.getsockname()[1]}/v1")


@pytest.mark.parametrize("base_url", ["https://api.openai.com/v1", "https://mine.openai.azure.com/openai/v1"])
def test_a_providers_model_points_to_guard(base_url: str) -> None:
    """The fault: `gpt-5-mini` got "no tokenizer". Nobody is asked."""
    started = time.monotonic()
    with pytest.raises(UnknownModelError, match=r"guard\(ChatOpenAI"):
        load_backend("gpt-5-mini", base_url=base_url)
    assert time.monotonic() - started < 1


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    model_location._known.clear()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("root", [None, "mine", "/models/qwen3", "Qwen/Qwen3-8B"])
def test_a_name_that_is_nowhere_is_said_at_once(root: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    """The fault: 49 s of retries and 161 lines. Right: a moment, one sentence, nothing on standard error."""
    listed = {"data": [{"id": "mine", "root": root, "max_model_len": 99, "owned_by": "vllm"}]}
    with serve_in_thread(ScriptedBackend(), faults=Faults(models=listed)) as wire:
        started = time.monotonic()
        with pytest.raises(UnknownModelError, match="tokenizer=") as caught:
            load_backend("mine", base_url=wire.base_url)
        assert time.monotonic() - started < 15
    assert root is None or root in str(caught.value)
    assert "guard(" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("offline")
def test_an_id_that_is_not_on_this_disk_is_said_at_once() -> None:
    """In process too."""
    started = time.monotonic()
    with pytest.raises(UnknownModelError, match=r"hub \(http://127.0.0.1:9\) can't be reached"):
        load_backend("owner/name")
    with pytest.raises(UnknownModelError, match="no Hugging Face id"):
        load_backend("owner/name/more")
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("offline")
def test_what_is_on_this_disk_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was loaded before, and a folder."""
    folder = model_path("e1-tiny")
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda model, name: f"{folder}/{name}" if name != "x" else None,
    )
    listed = {"data": [{"id": "mine", "root": "owner/e1", "max_model_len": 99}]}
    with serve_in_thread(ScriptedBackend(), faults=Faults(models=listed)) as wire:
        assert VllmServerBackend("mine", wire.base_url).codec.markers.close_ids
        assert VllmServerBackend("other", wire.base_url, tokenizer=folder).codec.markers.close_ids


def test_a_list_says_what_it_must() -> None:
    """Fields that are missing are no reason to refuse."""
    (one,) = server_info.models_in('{"data": [{"id": "m", "max_model_len": "9"}]}', "u").values()
    assert (one.context_length, one.root, one.owner) == (9, None, None)
    for wrong in (
        "[]",
        "{}",
        '{"data": {}}',
        '{"data": [1]}',
        '{"data": [{"id": "m", "max_model_len": []}]}',
    ):
        if wrong == '{"data": {}}':
            continue
        with pytest.raises(BackendProtocolError):
            server_info.models_in(wrong, "u")


def test_loading_a_model_tells_nothing_of_libraries_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """FutureWarnings of torch and transformers are not a newcomer's business; others are."""
    loaded = TransformersBackend.load

    def announcing(*args: Any, **kwargs: Any) -> Any:
        for module in ("torch.cuda", "transformers.modeling_utils", "somebody.else"):
            warnings.warn_explicit(f"{module} will change", FutureWarning, "file.py", 1, module)
        return loaded(*args, **kwargs)

    monkeypatch.setattr(TransformersBackend, "load", announcing)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _load("e1-tiny", None, None, None, "transformers", {})
    assert [str(one.message) for one in caught] == ["somebody.else will change"]
