"""The official OpenAI SDK through the gateway: budgets for a call, and a task with a cap over several.

python examples/openai_sdk.py             # starts a gateway before e1-tiny by itself
python examples/openai_sdk.py BASE_URL    # asks a running one: elastic-agent serve --model e1-tiny --no-keys
"""

import asyncio
import sys
from contextlib import AsyncExitStack

from openai import APIStatusError, AsyncOpenAI

from elastic_agent import load_backend
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Upstream

QUESTION = "A shop has 37 apples . #1 It sells 12 . #2 It gets 3 boxes of 8 . How many apples are left ?"


async def ask(client: AsyncOpenAI) -> None:
    """One call with its own budgets, streamed; then calls of one task until its cap is used up."""
    stream = await client.chat.completions.create(
        model="e1-tiny",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        extra_body={"thinking_budget": 32, "solution_budget": 96},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="")
    print()
    task = {"X-Elastic-Task": "example", "X-Elastic-Caps": "tokens=300, seconds=60"}
    for number in range(1, 10):
        try:
            said = await client.chat.completions.create(
                model="e1-tiny", messages=[{"role": "user", "content": QUESTION}], extra_headers=task
            )
        except APIStatusError as error:  # 402: what is left, and what it would have needed
            print(f"call {number}: {error.status_code} {error.message}")
            break
        budget = said.model_extra["budget"] if said.model_extra else {}
        print(f"call {number}: {budget['calls'][0]['granted']}, left {budget['left']}")


async def main(base_url: str | None) -> None:
    async with AsyncExitStack() as stack:
        if base_url is None:
            gateway = Gateway(
                GatewaySettings([Upstream("e1-tiny", load_backend("e1-tiny"))], port=0, no_keys=True)
            )
            base_url = (await stack.enter_async_context(gateway)).url
        client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
        await ask(await stack.enter_async_context(client))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
