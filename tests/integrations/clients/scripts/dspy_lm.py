"""DSPy's `LM`."""

import dspy
from _report import MESSAGES, MODEL, MOST, URL, run


def text(key):
    lm = dspy.LM(f"openai/{MODEL}", api_base=URL, api_key=key, max_tokens=MOST, temperature=0.6, cache=False)
    said = lm(messages=MESSAGES)[0]
    return said if isinstance(said, str) else said["text"]


run(text, None, None)
