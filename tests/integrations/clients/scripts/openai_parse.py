"""OpenAI's SDK: an answer in a pydantic schema (`parse`), and the `stream` helper."""

import openai
from _report import MESSAGES, MODEL, MOST, URL, run
from pydantic import BaseModel


class Answer(BaseModel):
    a: int


def client(key):
    return openai.OpenAI(base_url=URL, api_key=key)


def text(key):
    said = client(key).chat.completions.parse(
        model="writer", messages=MESSAGES, response_format=Answer, max_completion_tokens=MOST
    )
    return said.choices[0].message.parsed.model_dump_json()


def stream(key):
    with client(key).chat.completions.stream(
        model=MODEL, messages=MESSAGES, max_completion_tokens=MOST
    ) as events:
        return [event.delta for event in events if event.type == "content.delta" and event.delta]


run(text, None, stream)
