"""`elastic-agent serve`: an OpenAI-compatible server that gives every call a thinking and a solution budget.

config      what it is told when it starts         server      the application, its routes, its life
fields      what clients send, checked             plan        a request as a call
keys        keys with caps                         books       an account for each key and task
tasks       tasks that clients name                generation  one request, from body to last byte
choices     answers while they come                wire        answers in OpenAI's JSON
errors      errors in OpenAI's shape               guard       connections that bring nothing
metrics     /metrics                               openapi     /openapi.json
command     the command line
"""
