"""Bodies in Python: a list of calls with arguments by name."""

from __future__ import annotations

import ast
import json
from typing import Any

from .written_call import Call, MalformedError, checked_call


def read_python(body: str) -> list[Call]:
    tree: Any = ast.parse(
        body if body.startswith("[") else f"[{','.join(body.splitlines())}]", mode="eval"
    ).body
    if not isinstance(tree, ast.List) or not tree.elts:
        raise MalformedError("not a list of calls")
    calls = []
    for call in tree.elts:
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise MalformedError("not a call with its arguments by name")
        arguments = {str(k.arg): _literal(k.value) for k in call.keywords}
        json.dumps(arguments, allow_nan=False)  # what JSON can't write is no argument
        calls.append(checked_call(ast.unparse(call.func), arguments))
    return calls


class _Constants(ast.NodeTransformer):
    """JSON's constants among Python's literals."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in (known := {"true": True, "false": False, "null": None}):
            return ast.copy_location(ast.Constant(known[node.id]), node)
        return node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Constants().visit(node))
