"""The routes of the gateway that answer no prompt, and what happens around every request.

middleware  around every request: its key, its errors, its line in the access log
cors        web pages of other hosts
keys        /v1/keys/me
tasks       /v1/tasks
status      /v1/models, /health, /ready, /metrics, /openapi.json

The routes that answer prompts are in `serving.generation`. Imports every other room of the gateway.
"""
