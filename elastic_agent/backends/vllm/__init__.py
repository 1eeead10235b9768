"""vLLM: a server over HTTP, or the engine in this process.

May import `backends`' own files, `served`, `prompts`, `charging` and the root's modules.

async_engine      vLLM's `AsyncLLM` in a thread with an event loop of its own.
completions_wire  The wire of `/v1/completions`: a pass as a request body, an event as a chunk.
engine            The engine in this process as a backend.
abandoned_passes  At most how much a server served of an abandoned pass, by its own counters.
engine_metrics    One scrape of a server's `/metrics`.
guided_decoding   What a server says to the fields of a guided call, at no token.
plugin/           The logits processor that holds both limits inside vLLM; needs nothing of ours.
process           A vLLM server as a process of ours, with the flags that budgets want.
server            A server as a backend.
server_pass       One pass on a server: posted, read, abandoned or read to its end.
server_process    Any server as a process of ours: started, watched, stopped.
"""
