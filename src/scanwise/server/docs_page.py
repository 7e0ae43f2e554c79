"""/docs: the OpenAPI as one page, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template


def docs_html(openapi: Mapping[str, Any], *, form: bool) -> str:
    """The page.

    Args:
        openapi: The application's OpenAPI document.
        form: Show a form to try /predict with; it can't send a token.
    """
    schemas = openapi["components"]["schemas"]
    return _template().render(
        api=openapi, operations=list(_operations(openapi)), schemas=_fields(schemas), form=form
    )


@cache
def _template() -> Template:
    text = files("scanwise.server").joinpath("templates/docs.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["kind"] = kind_of
    return environment.from_string(text)


def _operations(openapi: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in openapi["paths"].items():
        for method, facts in methods.items():
            bodies = facts.get("requestBody", {}).get("content", {})
            yield {
                "id": facts["operationId"],
                "method": method.upper(),
                "path": path,
                "text": facts.get("description", ""),
                "parameters": facts.get("parameters", []),
                "bodies": {kind: list(_rows(body["schema"])) for kind, body in bodies.items()},
                "responses": {
                    code: [_answer(kind, body) for kind, body in answer.get("content", {}).items()]
                    for code, answer in facts["responses"].items()
                },
            }


def _answer(kind: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Content type, and the name of its schema ('' for one without)."""
    return kind, str(body.get("schema", {}).get("$ref", "")).rsplit("/", 1)[-1]


def _fields(schemas: Mapping[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    return {name: list(_rows(schema)) for name, schema in schemas.items()}


def _rows(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, kind and description of each property."""
    for name, facts in schema.get("properties", {}).items():
        yield name, kind_of(facts), facts.get("description", "")


def kind_of(facts: Mapping[str, Any]) -> str:
    """'list of string', 'number or null', 'Prediction'."""
    if "$ref" in facts:
        return str(facts["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in facts:
        return " or ".join(kind_of(one) for one in facts["anyOf"])
    if "enum" in facts:
        return " | ".join(map(str, facts["enum"]))
    if "const" in facts:
        return str(facts["const"])
    if facts.get("type") == "array":
        return f"list of {kind_of(facts.get('items', {}))}"
    if facts.get("format") == "binary" or "contentMediaType" in facts:
        return "file"
    if facts.get("type") == "object" and "additionalProperties" in facts:
        return f"{{name: {kind_of(facts['additionalProperties'])}}}"
    return str(facts.get("type", "any"))
