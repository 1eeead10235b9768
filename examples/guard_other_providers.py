"""Another provider's model under the same caps as ours: `guard` puts ChatOpenAI under the task's ledger.

    python examples/guard_other_providers.py

It runs offline: a few lines below play OpenAI's server. Point `base_url` elsewhere, or leave it out, for a
real one.
"""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from langchain_openai import ChatOpenAI

from elastic_agent.integrations.langchain import ChatElasticReasoning, guard
from elastic_agent.scheduler import Price, task_budget


class PlayOpenAI(BaseHTTPRequestHandler):
    """Answers every request with as many words as it may."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = ["word"] * min(120, body["max_completion_tokens"])
        message = {"role": "assistant", "content": " ".join(words)}
        usage = {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 9 + len(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        data = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


async def main(base_url: str) -> None:
    theirs = guard(
        ChatOpenAI(model="gpt-4o-mini", base_url=base_url, api_key="none", max_retries=0),  # type: ignore[arg-type]
        price=Price("0.15", "0.60"),
        max_tokens=200,
    )
    ours = ChatElasticReasoning(model="e1-tiny", thinking_budget=64, solution_budget=96)
    problem = "A shop has 37 apples . #1 It sells 12 . #2 It gets 3 boxes of 8 . How many apples are left ?"
    async with task_budget(tokens=700, usd="0.01") as task:
        answers = await asyncio.gather(*[theirs.ainvoke(problem) for _ in range(4)], ours.ainvoke(problem))
    print("tokens of each answer:", [m.usage_metadata["output_tokens"] for m in answers if m.usage_metadata])
    print(task.report())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), PlayOpenAI)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        asyncio.run(main(f"http://127.0.0.1:{server.server_address[1]}/v1"))
    finally:
        server.shutdown()
        server.server_close()
