"""Answers on their way to the client: `n` calls of a request, their format, and how they are sent.

choices           the calls of a request, run side by side, and their deltas
chat_format       chat completions and completions as OpenAI's JSON, whole and as chunks
responses_format  responses as OpenAI's JSON, whole and as events
messages_format   messages as Anthropic's JSON, whole and as events
response_writer   sends an answer: whole, or as server-sent events

Imports `accounts`, `errors` and `settings` of the gateway, `openai_format`, the scheduler and the core.
"""
