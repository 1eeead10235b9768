"""A LangChain chat model with a thinking and a solution budget: embedded model, no key, no server, no GPU.

python examples/langchain_quickstart.py [MODEL]
"""

import asyncio
import sys

from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.scheduler import task_budget

PROBLEM = "A shop has 36 cakes . #1 It makes 6 boxes of 4 . #2 It ships 14 . How many cakes are left ?"
MODEL = sys.argv[1] if len(sys.argv) > 1 else "e1-tiny"


async def main() -> None:
    llm = ChatElasticReasoning(model=MODEL, thinking_budget=64, solution_budget=96, temperature=0)

    # A call: the solution is the text, the thinking is a content block of its own.
    message = await llm.ainvoke(PROBLEM)
    print("thought: ", message.content_blocks[0])
    print("answered:", message.text)

    # Per call: think less. The budget is obeyed to the token.
    short = await llm.ainvoke(PROBLEM, thinking_budget=8)
    assert short.usage_metadata is not None
    print("tokens:  ", short.usage_metadata["output_token_details"], short.response_metadata["budget"])

    # Streamed: thinking first, then the solution.
    async for chunk in llm.astream(PROBLEM, thinking_budget=16):
        for block in chunk.content_blocks:
            print(block.get("reasoning") or block.get("text"), end="|")
    print()

    # Per task: say what all of it may cost; every call in here is granted its budget from that.
    async with task_budget(tokens=400, usd="0.01") as task:
        await llm.abatch([PROBLEM, PROBLEM.replace("14", "9")])
    print(task.report())


if __name__ == "__main__":
    asyncio.run(main())
