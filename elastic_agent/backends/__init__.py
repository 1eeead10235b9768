"""Ways to a model, all behind one protocol: token ids in, a stream of token ids out.

May import `prompts`, `tool_calls`, `charging` and the root's modules.

base           The protocol: `Backend`, `Codec`, and what one pass is asked for and brings.
decoder        What decodes many requests together, token by token: the seam below a backend.
decoder_backend  A decoder of this process as a backend, stepped by a thread.
limits_probe   Whether an engine holds both limits of a call itself: it is probed.
llama_cpp/     A llama.cpp server over HTTP.
load           A backend by name: what `model=` and `base_url=` mean.
replicas       Several servers of one model as one backend.
served/        What every model server needs: sessions, address, events.
scripted       A deterministic model made of text, for tests.
transformers/  A Hugging Face model in this process.
vllm/          A vLLM server over HTTP, or the engine in this process.
"""
