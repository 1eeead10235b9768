"""vLLM: a server over HTTP, or the engine in this process.

async_engine     vLLM's `AsyncLLM` in a thread with an event loop of its own, which serves passes to
                 any other event loop.
engine           vLLM in this process: its `AsyncLLM` (`vllm_async`), token ids in and out, no server
                 between.
engine_counters  What a vLLM server's own counters say of a pass that was left before its end: at most
                 how much it served.

process          A vLLM server as a process of ours: started with the flags that budgets want,
                 watched, stopped.
served           What a server says of itself before the first call: whether it is one, its models,
                 their tokenizers.
server           A vLLM server, over `/v1/completions` with token ids in both directions.
server_process   A server as a process of ours: started, watched, stopped, with all that it starts
                 itself.
"""
