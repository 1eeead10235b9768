"""Requests made from the gateway's OpenAPI description: valid ones, nearly valid ones, and nonsense."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.5, 1e308, 3.5),
    *("", "x", "\x00", "</think>", "\ud800", "🙂" * 50, "<tool_call>{}</tool_call>", "a" * 5000),
    *([], [[]], [None], {}, {"": {}}, {"type": "text"}),
]
WORDS = ("hello", "there", "what is 2 and 2", "</think>", "<|im_end|>", "é 字 🙂", "")


@dataclass
class Sent:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes | None


class Fuzz:
    """Makes requests.

    Args:
        description: the OpenAPI document.
        seed: the same requests again.
        keys: bearer tokens to use, wrong ones among them; None sends none.
        model: a name that exists.
    """

    def __init__(self, description: dict[str, Any], seed: int, keys: list[str | None], model: str) -> None:
        self.random = random.Random(seed)
        self.schemas = description["components"]["schemas"]
        self.operations = [
            (method.upper(), path, operation)
            for path, item in description["paths"].items()
            for method, operation in item.items()
        ]
        self.keys, self.model = keys, model

    def request(self) -> Sent:
        """One."""
        roll = self.random
        method, path, operation = roll.choice(self.operations)
        if roll.random() < 0.6:  # what people really send
            method, path, operation = next(o for o in self.operations if o[1] == "/v1/chat/completions")
        headers = {}
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                name = roll.choice(["task-1", "task-2", self.model, "nobody", "a%20b", "%00", "x" * 300])
                path = path.replace(f"{{{parameter['name']}}}", name)
            elif roll.random() < 0.1:
                headers[parameter["name"]] = self._header(parameter)
        if roll.random() < 0.15:
            headers["X-Elastic-Task"] = f"task-{roll.randrange(8)}"
            if roll.random() < 0.7:
                headers["X-Elastic-Caps"] = roll.choice(["tokens=500", "tokens=900, seconds=60", "usd=0.01"])
        key = roll.choice(self.keys)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        data = None
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            headers["Content-Type"] = "application/json" if roll.random() < 0.98 else "text/plain"
            data = self._body(schema)
        if roll.random() < 0.02:
            method = roll.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
        return Sent(method, path, headers, data)

    def _header(self, parameter: dict[str, Any]) -> str:
        roll, schema = self.random, parameter["schema"]
        if roll.random() < 0.2:
            return roll.choice(
                ["", "-1", "x" * 200, "99999999999", "1e3", "tokens", "tokens=,usd=nan", "usd=1e999"]
            )
        if "enum" in schema:
            return str(roll.choice(schema["enum"]))
        if "examples" in schema:
            return str(roll.choice(schema["examples"]))
        return str(roll.randrange(1, 60)) if schema["type"] == "integer" else f"task-{roll.randrange(8)}"

    def _body(self, schema: dict[str, Any]) -> bytes:
        roll = self.random
        wrong = roll.choice([0.0, 0.0, 0.0, 0.02, 0.2])  # for each value
        value = self.value(schema, wrong)
        if isinstance(value, dict):
            if "model" in value and roll.random() < 0.95:
                value["model"] = self.model
            for name in ("thinking_budget", "solution_budget", "max_tokens", "max_completion_tokens", "n"):
                if isinstance(value.get(name), int) and roll.random() < 0.9:
                    value[name] = roll.randrange(1, 40 if name != "n" else 4)
            if roll.random() < 0.05:
                value[roll.choice(["thinking_budgt", "user", "logit_bias", "x" * 100])] = roll.choice(JUNK)
        text = json.dumps(value)
        if roll.random() < 0.03:
            at = roll.randrange(len(text) + 1)
            text = roll.choice(
                [text[:at], text[:at] + "\x01" + text[at:], "[" * 5000, "", "null", '"x"', "NaN"]
            )
        return text.encode("utf-8", "replace")

    def value(self, schema: dict[str, Any], wrong: float, depth: int = 0) -> Any:
        """Something of a schema, with any part of it wrong with this probability."""
        roll = self.random
        if roll.random() < wrong or depth > 8:
            return roll.choice(JUNK)
        if "$ref" in schema:
            return self.value(self.schemas[schema["$ref"].rpartition("/")[2]], wrong, depth)
        if "anyOf" in schema:
            return self.value(roll.choice(schema["anyOf"]), wrong, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return roll.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, wrong, depth)
        if kind == "array":
            least, most = schema.get("minItems", 0), min(schema.get("maxItems", 3), 3)
            return [
                self.value(schema.get("items", {}), wrong, depth + 1)
                for _ in range(roll.randint(least, max(least, most)))
            ]
        if kind == "integer":
            return roll.randint(schema.get("minimum", 0), min(schema.get("maximum", 100), 2**62))
        if kind == "number":
            return roll.uniform(
                schema.get("minimum", schema.get("exclusiveMinimum", 0)), schema.get("maximum", 5)
            )
        if kind == "boolean":
            return roll.random() < 0.3
        if kind == "null":
            return None
        if kind == "string":
            return f"task-{roll.randrange(8)}" if "pattern" in schema else roll.choice(WORDS[:-1])
        return roll.choice([{}, "x", 1])

    def _object(self, schema: dict[str, Any], wrong: float, depth: int) -> dict[str, Any]:
        roll = self.random
        needed = set(schema.get("required", ()))
        found = {
            name: self.value(inner, wrong, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if (name in needed and roll.random() >= wrong) or roll.random() < 0.25
        }
        if found.get("type") == "json_schema" and "json_schema" not in found and roll.random() < 0.8:
            found["json_schema"] = {"name": "x", "schema": {"type": "object"}}
        return found
