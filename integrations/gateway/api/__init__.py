"""What clients send and get: request schema, response formats, errors, the description.

aliases            What other servers and clients call a budget: read as ours, or refused; never
                   ignored.
chat_format        Answers as OpenAI's JSON: chat completions and completions, whole and as chunks.
errors             Every error of the gateway in OpenAI's shape, with the numbers.
headers            What is read of a request beside its JSON: the body's bytes, and the headers that
                   are ours.
json_body          A request's body as JSON, at a price that is known before it is read.
openapi            What the gateway can be asked, as OpenAPI 3.1. The bodies come from the models that
                   check them.
request_schema     What clients send, as pydantic models: the checks, and the OpenAPI description made
                   from them.
responses_answer   `/v1/responses`, what is answered: a response with its items, whole or as events.
responses_request  `/v1/responses`, what is asked: OpenAI's Responses API, read as a chat request.
task_routes        `/v1/tasks`: open a task, look at it, close it.
"""
