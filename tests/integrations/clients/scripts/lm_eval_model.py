"""lm-evaluation-harness: `local-chat-completions`, as its tasks call it."""

import os

from _report import MODEL, MOST, QUESTION, URL, run
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion


def text(key):
    os.environ["OPENAI_API_KEY"] = key
    lm = LocalChatCompletion(base_url=f"{URL}/chat/completions", model=MODEL, max_retries=2)
    shown = lm.apply_chat_template([{"role": "user", "content": QUESTION}])
    one = Instance("generate_until", {}, (shown, {"max_gen_toks": MOST, "until": ["Q:"]}), 0)
    return lm.generate_until([one], disable_tqdm=True)[0]


run(text, None, None)
