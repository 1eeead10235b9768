"""What clients send: headers and bodies, checked; and the API's description.

headers           our headers: the options of a call, caps, budgets
json_body         a body's bytes, and its JSON in a bounded time
request_schema    the bodies of chat completions, completions and tasks
responses_schema  the body of OpenAI's Responses API, which becomes a chat request
messages_schema   the body of Anthropic's Messages API, which becomes a chat request
aliases           other servers' names for budgets
openapi           the OpenAPI description

What checks a request raises a GatewayError with status 400, which names the field or header.

Imports `errors`, `settings` and `ops` of the gateway, and `openai_format`.
"""
