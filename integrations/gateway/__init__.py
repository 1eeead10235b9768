"""`elastic-agent serve`: an OpenAI-compatible server that gives every call a thinking and a solution budget.

config      what it is told when it starts         server      the application, its routes, its life
fields      what clients send, checked             plan        a request as a call
keys        keys with caps                         books       an account for each key and task
tasks       tasks that clients name                generation  one request, from its body to its end
choices     answers while they come                exchange    answers, written
wire        OpenAI's JSON                          errors      errors in OpenAI's shape
intake      bodies and headers                     connections how many, and which go first
json_body   JSON at a bounded price                watchdog    who makes the loop stand still
metrics     /metrics                               openapi     /openapi.json
task_routes /v1/tasks                              command     the command line
"""
