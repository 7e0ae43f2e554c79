"""Reads the messages of errors and findings out of the source, as templates with {names} in them.

Nothing is imported or run: the syntax trees of src/scanwise are searched for calls such as
`DataError(f"{path} has no column 'label'.")` and `Finding("D001", "warning", evidence, advice)`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CODE = re.compile(r"[A-Z]\d{3}")
SEVERITIES = ("error", "warning", "info")
MOST_READINGS = 4  # of one message whose words depend on conditions


@dataclass(frozen=True)
class Message:
    """An error as the source raises it: its class, its templates and where."""

    kind: str
    texts: tuple[str, ...]
    module: str


@dataclass(frozen=True)
class CodeUse:
    """A coded finding as the source makes it; `about` is the docstring of the rule that does."""

    code: str
    severities: tuple[str, ...]
    evidence: tuple[str, ...]
    advice: tuple[str, ...]
    about: str
    module: str


@dataclass(frozen=True)
class _Call:
    node: ast.Call
    name: str
    scope: ast.AST  # the function around it, or the module
    module: str


def messages(source: Path, kinds: frozenset[str]) -> list[Message]:
    """Every error of these classes that is made in `source` with a text of its own."""
    found = []
    for call in _calls(source):
        if call.name in kinds and call.node.args:
            texts = tuple(text for text in templates(call.node.args[0], call.scope) if _says(text))
            if texts:
                found.append(Message(call.name, texts, call.module))
    return found


def code_uses(source: Path) -> list[CodeUse]:
    """Every call that is handed a code such as "D001", the texts that follow it, and its rule."""
    found, calls = [], list(_calls(source))
    helpers = _helpers(calls)
    for call in calls:
        values = [*call.node.args, *(word.value for word in call.node.keywords)]
        codes = [value.value for value in values if _is_code(value)]
        if len(codes) != 1:
            continue
        evidence, advice = _told(call)
        if evidence:
            about = inspect.cleandoc(ast.get_docstring(call.scope) or "") if _is_def(call) else ""
            severities = _severities(call) or helpers.get((call.module, call.name), ())
            found.append(CodeUse(codes[0], severities, evidence, advice, about, call.module))
    return found


def templates(node: ast.expr, scope: ast.AST) -> list[str]:
    """The texts that an expression may give: {name} for values, a local name followed to its texts.

    >>> templates(ast.parse('f"{n} files" if n else "none"', mode="eval").body, ast.Module([], []))
    ['{n} files', 'none']
    """
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return [*templates(node.body, scope), *templates(node.orelse, scope)]
    if isinstance(node, ast.JoinedStr):
        parts = [templates(part, scope) for part in node.values]
        return [
            "".join(each) for each in itertools.islice(itertools.product(*parts), MOST_READINGS)
        ]
    if isinstance(node, ast.FormattedValue):
        known = _constant(node.value)
        if known is not None:
            spec = "".join(templates(node.format_spec, scope)) if node.format_spec else ""
            return [format(known, spec)]
        if isinstance(node.value, ast.IfExp):
            return templates(node.value, scope)
        return [f"{{{_short(node.value)}}}"]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        pairs = itertools.product(templates(node.left, scope), templates(node.right, scope))
        return [left + right for left, right in itertools.islice(pairs, MOST_READINGS)]
    if isinstance(node, ast.Name):
        values = [value for name, value in _assigned(scope) if name == node.id]
        texts = [text for value in values for text in templates(value, scope)]
        return texts or [f"{{{node.id}}}"]
    return [f"{{{_short(node)}}}"]


@cache
def _assigned(scope: ast.AST) -> tuple[tuple[str, ast.expr], ...]:
    """Local names with the texts that they are given, but those made from themselves."""
    return tuple(
        (target.id, each.value)
        for each in ast.walk(scope)
        if isinstance(each, ast.Assign) and _is_text(each.value)
        for target in each.targets
        if isinstance(target, ast.Name) and target.id not in _names(each.value)
    )


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _calls(source: Path) -> Iterator[_Call]:
    """Every call below `source` with the innermost function around it."""
    for path in sorted(source.rglob("*.py")):
        tree = _with_constants(ast.parse(path.read_text(encoding="utf-8")))
        module = path.relative_to(source).with_suffix("").as_posix()
        scopes: list[tuple[ast.AST, ast.AST]] = [(tree, tree)]
        while scopes:
            node, scope = scopes.pop()
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                yield _Call(node, name, scope, module)
            inner = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else scope
            scopes += [(child, inner) for child in ast.iter_child_nodes(node)][::-1]


def _with_constants(tree: ast.Module) -> ast.Module:
    """The module with the values of its own constants (MIN_CLASS = 5) in their places."""
    values = {
        each.targets[0].id: each.value
        for each in tree.body
        if isinstance(each, ast.Assign)
        and isinstance(each.targets[0], ast.Name)
        and isinstance(each.value, ast.Constant | ast.Tuple)
    }

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    return Fill().visit(tree)


def _constant(node: ast.expr) -> object:
    """The value of a constant, or of one element of a constant tuple; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Tuple):
        place = _constant(node.slice)
        return _constant(node.value.elts[place]) if isinstance(place, int) else None
    return None


def _told(call: _Call) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Evidence and advice: by name, or the first two that are no code and no severity."""
    named = {word.arg: word.value for word in call.node.keywords if word.arg}
    rest = [
        value
        for value in call.node.args
        if not _is_code(value)
        and not (isinstance(value, ast.Constant) and value.value in SEVERITIES)
        and not (isinstance(value, ast.Name) and value.id in ("material", "severity"))
        and not _is_severity_choice(value)
    ]
    evidence = named.get("evidence", rest[0] if rest else None)
    advice = named.get("advice", rest[1] if len(rest) > 1 else None)
    return _texts(evidence, call), _texts(advice, call)


def _texts(value: ast.expr | None, call: _Call) -> tuple[str, ...]:
    return tuple(templates(value, call.scope)) if value is not None else ()


def _severities(call: _Call) -> tuple[str, ...]:
    found = {
        part.value
        for value in (*call.node.args, *(word.value for word in call.node.keywords))
        for part in ast.walk(value)
        if isinstance(part, ast.Constant) and part.value in SEVERITIES
    }
    return tuple(name for name in SEVERITIES if name in found)


def _helpers(calls: list[_Call]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The severities that a function gives to findings whose code it is handed."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for call in calls:
        codes = [arg for arg in call.node.args if isinstance(arg, ast.Name) and arg.id == "code"]
        if call.name == "Finding" and codes and isinstance(call.scope, ast.FunctionDef):
            place = call.module, call.scope.name
            known = {*found.get(place, ()), *_severities(call)}
            found[place] = tuple(name for name in SEVERITIES if name in known)
    return found


def _is_code(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and CODE.fullmatch(node.value) is not None
    )


def _is_severity_choice(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.IfExp)
        and isinstance(node.body, ast.Constant)
        and (node.body.value in SEVERITIES)
    )


def _is_def(call: _Call) -> bool:
    return isinstance(call.scope, ast.FunctionDef)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.IfExp | ast.BinOp) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _short(node: ast.expr) -> str:
    """A value's name in a template: its last word, such as {path} or {counts}."""
    if isinstance(node, ast.Subscript):
        return _short(node.value)
    if isinstance(node, ast.Call):
        inner = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        first = node.args[0] if node.args else None
        return _short(first) if first is not None and not _is_text(first) else inner.strip("_")
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else "…"


def _says(text: str) -> bool:
    """False for a text that is only a placeholder."""
    return re.search(r"[A-Za-z]{3}", re.sub(r"\{[^}]*\}", "", text)) is not None
