"""Small changes of a program that its tests should notice."""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["Mutation", "count_of", "mutated"]

ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


class Mutation(NamedTuple):
    """One change of one file.

    Attributes:
        line: Where.
        what: The kind of the change.
        before: The line, or its first, as Python writes it.
        after: What it becomes.
        source: The whole file with the change.
    """

    line: int
    what: str
    before: str
    after: str
    source: str


Change = Callable[[], None]  # makes the change in the tree


def _sites(parent: ast.AST) -> Iterator[tuple[ast.AST, str, Change]]:
    """Every change of a tree: the node, its kind, and what makes it."""
    for field, value in ast.iter_fields(parent):
        for place, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or _left_out(parent, field, node):
                continue

            def put(new: ast.AST, field: str = field, place: int = place, many: Any = value) -> Change:
                def change() -> None:
                    if isinstance(many, list):
                        many[place] = new
                    else:
                        setattr(parent, field, new)

                return change

            yield from _changes(node, put)
            yield from _sites(node)


def _left_out(parent: ast.AST, field: str, node: ast.AST) -> bool:
    """Annotations, texts and what raises say are no behaviour; ``strict=`` only guards against mistakes of our own."""
    if field in ("annotation", "returns", "type_params") or isinstance(
        node, (ast.Import, ast.ImportFrom, ast.JoinedStr)
    ):
        return True
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    return isinstance(parent, ast.FormattedValue) or (isinstance(parent, ast.Raise) and field == "exc")


def _changes(node: ast.AST, put: Callable[[ast.AST], Change]) -> Iterator[tuple[ast.AST, str, Change]]:
    def edited(name: str, **fields: object) -> tuple[ast.AST, str, Change]:
        other = copy.copy(node)
        for field, value in fields.items():
            setattr(other, field, value)
        return node, name, put(other)

    match node:
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield edited("operator", op=ARITHMETIC[type(op)]())
        case ast.AugAssign(op=op):
            if type(op) in ARITHMETIC:
                yield edited("operator", op=ARITHMETIC[type(op)]())
            yield node, "deleted", put(ast.Pass())
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            yield edited("comparison", ops=[COMPARISONS[type(op)]()])
        case ast.BoolOp(op=op):
            yield edited("and, or", op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, "sign or not", put(operand)
        case ast.Constant(value=bool(value)):
            yield edited("constant", value=not value)
        case ast.Constant(value=int(value)):
            yield edited("constant", value=value + 1)
        case ast.Constant(value=float(value)):
            yield edited("constant", value=2 * value + 1)
        case ast.If(test=test) | ast.IfExp(test=test) if not _typing(test):
            yield edited("condition", test=ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=value) if value is not None and not _nothing(value):
            yield edited("returned", value=ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
            yield node, "deleted", put(ast.Pass())
        case ast.Call(keywords=keywords) if keywords:
            for i, keyword in enumerate(keywords):
                if keyword.arg not in (None, "strict"):
                    yield edited(f"argument {keyword.arg}", keywords=[*keywords[:i], *keywords[i + 1 :]])
        case ast.Break():
            yield node, "break", put(ast.Continue())
        case ast.Continue():
            yield node, "continue", put(ast.Break())


def _typing(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _nothing(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def count_of(source: str) -> int:
    """How many changes there are of a file."""
    return sum(1 for _ in _sites(ast.parse(source)))


def mutated(source: str, number: int) -> Mutation:
    """One change of a file.

    Raises:
        IndexError: If there are not so many.
    """
    tree = ast.parse(source)
    plain = ast.unparse(tree).splitlines()
    for at, (node, what, change) in enumerate(_sites(tree)):
        if at == number:
            change()
            text = ast.unparse(ast.fix_missing_locations(tree))
            lines = [line for line in difflib.ndiff(plain, text.splitlines()) if line[:2] in ("- ", "+ ")]
            before, after = ([line[2:].strip() for line in lines if line[0] == sign] for sign in "-+")
            return Mutation(getattr(node, "lineno", 0), what, " ".join(before[:1]), " ".join(after[:1]), text)
    raise IndexError(f"there is no change {number}")
