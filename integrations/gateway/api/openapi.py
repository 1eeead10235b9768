"""The OpenAPI 3.1 description of the gateway. Bodies are described by the schemas that check them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from elastic_agent import __version__

from .headers import HEADERS, IDEMPOTENCY_KEY
from .messages_schema import CountRequest, MessagesRequest
from .request_schema import ChatRequest, CompletionRequest, TaskRequest
from .responses_schema import ResponseRequest

KEY_HEADER = {IDEMPOTENCY_KEY: {"type": "string", "pattern": "^[ -~]{1,255}$"}}


@cache
def description() -> dict[str, Any]:
    """The description."""
    kinds = (
        ChatRequest,
        CompletionRequest,
        ResponseRequest,
        MessagesRequest,
        CountRequest,
        TaskRequest,
    )
    _, defined = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    task_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    once, budgets = (
        [
            {"name": header, "in": "header", "required": False, "schema": schema}
            for header, schema in headers.items()
        ]
        for headers in (KEY_HEADER, {**HEADERS, **KEY_HEADER})
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Elastic Agent gateway", "version": __version__},
        "paths": {
            "/v1/chat/completions": {"post": _operation("A chat answer", ChatRequest, budgets)},
            "/v1/completions": {"post": _operation("A text answer", CompletionRequest, budgets)},
            "/v1/responses": {"post": _operation("A response", ResponseRequest, budgets)},
            "/v1/messages": {"post": _operation("A message", MessagesRequest, budgets)},
            "/v1/messages/count_tokens": {"post": _operation("Tokens of a prompt", CountRequest)},
            "/v1/models": {"get": _operation("The models")},
            "/v1/models/{name}": {"get": _operation("One model", parameters=[name])},
            "/v1/keys/me": {"get": _operation("What the key may spend, and has spent")},
            "/v1/tasks": {"post": _operation("Open a task", TaskRequest, once, "201")},
            "/v1/tasks/{id}": {
                "get": _operation("A task's report", parameters=[task_id]),
                "delete": _operation("Close a task", parameters=[task_id]),
            },
            "/health": {"get": _operation("The process is alive")},
            "/ready": {"get": _operation("A call could be answered now")},
            "/metrics": {"get": _operation("Numbers for Prometheus")},
            "/openapi.json": {"get": _operation("This document")},
        },
        "components": {
            "schemas": defined["$defs"] | {"Error": _error_schema()},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{"key": []}, {"x-api-key": []}, {}],
    }


def _error_schema() -> dict[str, Any]:
    text, numbers = {"type": "string"}, {"type": "object"}
    always = {"message": text, "type": text, "param": {"type": ["string", "null"]}, "code": text}
    error = {
        "type": "object",
        "required": list(always),
        "properties": always | {"needed": numbers, "available": numbers, "charged": numbers},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _operation(
    summary: str,
    body: type | None = None,
    parameters: list[dict[str, Any]] | None = None,
    status: str = "200",
) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            status: {"description": summary},
            "4XX": {"description": "Refused", **error},
            "5XX": {"description": "Not now", **error},
        },
    }
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if parameters:
        found["parameters"] = parameters
    return found
