"""One request for an answer, from its body to its end.

generation        reads a request, runs its calls, and turns errors into answers
messages          Anthropic's wire: its two routes
plan              a request as a plan of its calls
requested_budget  the thinking and solution that a request asks for
prompt            a request's prompt as token ids
guides            structured answers and forced tool calls
idempotency       a request with an Idempotency-Key runs once
shared_response   one response for several readers

What checks a request raises a GatewayError with status 400, which names the field or header.

Imports the gateway's `answers`, `api`, `accounts`, `storage`, `errors` and `settings`.
"""
