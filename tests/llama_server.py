"""The real llama.cpp server of the tests: `xllamacpp` has llama.cpp's own server in a wheel.

The server serves e1-tiny, written as a GGUF file. The ids are e1-tiny's. llama.cpp has no tokenizer of its
kind, and needs none: prompts and answers are ids.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.model_location import model_path

PROGRAM = """
import threading, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 4096, 4, 0, False
params.endpoint_metrics, params.cpuparams.n_threads = True, 1
server = xllamacpp.Server(params)
print("at", server.listening_address, flush=True)
threading.Event().wait()
"""


def write_gguf(folder: Path, output: Path, *, shift: int = 0) -> None:
    """A Qwen3 model's folder as a GGUF file.

    Args:
        shift: by how many places the words of its vocabulary are moved: a file of another vocabulary.
    """
    import gguf
    from safetensors import safe_open

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    tokenizer: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    words = {number: word for word, number in tokenizer["model"]["vocab"].items()}
    words |= {one["id"]: one["content"] for one in tokenizer["added_tokens"]}
    control = {one["id"] for one in tokenizer["added_tokens"]}
    size = config["vocab_size"]
    writer = gguf.GGUFWriter(str(output), "qwen3")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([words.get((number + shift) % size, f"[{number}]") for number in range(size)])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if n in control else kinds.NORMAL for n in range(size)])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    with safe_open(folder / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118
            writer.add_tensor(
                names.get_name(name, try_suffixes=(".weight",)), weights.get_tensor(name).float().numpy()
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def llama_server(folder: Path, *, shift: int = 0) -> Iterator[str]:
    """The address of a server of e1-tiny that runs meanwhile; skips where there is no llama.cpp."""
    if find_spec("xllamacpp") is None or find_spec("gguf") is None:
        pytest.skip("no llama.cpp here: pip install xllamacpp gguf")
    file, log = folder / "e1-tiny.gguf", folder / "llama.log"
    write_gguf(Path(model_path("e1-tiny")), file, shift=shift)
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(file)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            found = re.match(r"at (\S+)", process.stdout.readline())
            assert found is not None, log.read_text()[-2000:]
            yield found[1]
        finally:
            process.kill()
            process.communicate()
