"""Train an agent that speaks the OpenAI wire and knows nothing of this project but an address and a key.

    python examples/train_agent_by_wire.py [--steps N]

The same file is the agent, when the trainer starts it for an episode: it reads its row on standard input,
asks the model at OPENAI_BASE_URL twice, and prints its reward. An agent in any language does the same.
"""

import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path


def ask(text: str) -> str:
    """One request, as any OpenAI client sends it."""
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps({"model": "any", "messages": [{"role": "user", "content": text}]}).encode(),
        {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        content: str = json.load(answer)["choices"][0]["message"]["content"]
    return content


def be_the_agent() -> None:
    """An episode: the reward is the share of right answers."""
    row = json.loads(sys.stdin.readline())
    right = [f"Answer : {answer} ." in ask(text) for text, answer in row["problems"]]
    print(sum(right) / len(right))


def train_the_agent(steps: int) -> None:
    from transformers.utils import logging

    from elastic_agent.training.config.loading import load_config
    from elastic_agent.training.data.word_problems import make_problems
    from elastic_agent.training.run import train

    logging.disable_progress_bar()
    problems = [[problem.text, problem.answer] for problem in make_problems(5, 16, split="train", steps=2)]
    rows = [{"problems": pair} for pair in zip(problems[::2], problems[1::2], strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "rows.jsonl")
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, os.path.abspath(__file__), "--agent"]
        changes = (
            f"agent={{run: null, command: {json.dumps(command)}, caps: {{tokens: [60, 300]}}}}",
            f"data={{source: rows, path: {data}}}",
            f"output={Path(folder, 'e1-wire')}",
            f"steps={steps}",
            "rollout={prompts: 2, group: 4}",
        )
        train(load_config("agent", changes))


if __name__ == "__main__":
    if "--agent" in sys.argv:
        be_the_agent()
    else:
        train_the_agent(int(sys.argv[2]) if sys.argv[1:2] == ["--steps"] else 1)
