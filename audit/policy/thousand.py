"""Divisions by 1000: a bin k stands for k/999. Modules in, violations out. POLICY-008."""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING, TypeGuard

from audit.policy.source import (
    Violation,
    bindings,
    dotted_name,
    imported_names,
    known_names,
    resolved_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from audit.policy.source import SourceFile

BINS, LAST_BIN, THOUSANDTH = 1000, 999, 0.001
DIVIDERS = {
    "div", "divide", "true_divide", "floor_divide", "truediv", "floordiv", "itruediv", "ifloordiv", "divmod",
    "Fraction",
}  # fmt: skip
MULTIPLIERS = {"mul", "multiply", "imul"}
# Calls that give back the number they are given.
CASTS = {
    "float", "int", "abs", "round", "tensor", "as_tensor", "scalar_tensor", "array", "asarray", "float16", "float32",
    "float64", "int16", "int32", "int64", "Decimal", "new_tensor", "repeat", "tile",
}  # fmt: skip
# Methods that leave the numbers they are called on as they are.
KEEPERS = {
    "to", "float", "double", "half", "long", "item", "astype", "type", "type_as", "clone", "copy", "cuda", "cpu",
    "view", "reshape", "expand", "repeat", "unsqueeze", "squeeze", "flatten", "detach", "contiguous",
}  # fmt: skip
FILLERS = {"full", "full_like", "new_full"}
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
LIBRARY = ("coordexp/", "audit/")
NAME_HOPS = 3
LARGEST = 1e9
"""Operands beyond it are left alone: no such constant is near 1000, and powers of them take forever."""


def names_of_thousand(sources: Iterable[SourceFile]) -> dict[str, float]:
    """Names that any of the modules binds to the number of bins, to one over it or, as a constant, to the last bin.

    Of modules outside the library, which has many names of its own, only constants count.
    """
    rows = [
        (name, value)
        for source in sources
        for name, value in bindings(source.tree)
        if name.isupper() or source.path.startswith(LIBRARY)
    ]
    found: dict[str, float] = {}
    for _ in range(NAME_HOPS):
        for name, value in rows:
            number = number_of(value, found)
            if is_telling(number) or (name.isupper() and is_last_bin(number) and name not in found):
                found[name] = number
    return found


def is_telling(number: float | None) -> TypeGuard[float]:
    """Whether a number is 1000 or a thousandth, of either sign."""
    return number is not None and abs(number) in (BINS, THOUSANDTH)


def is_last_bin(number: float | None) -> TypeGuard[float]:
    """Whether a number is one off 1000 or two, so that a sum with it may be 1000."""
    return number is not None and abs(number) in (LAST_BIN, LAST_BIN - 1)


def number_of(node: ast.AST, names: Mapping[str, float]) -> float | None:
    """The number that a constant expression stands for, however it is written; None for what varies."""
    if isinstance(node, ast.Constant):
        return number_of_constant(node.value)
    if isinstance(node, ast.Name | ast.Attribute):
        return names.get(dotted_name(node).rpartition(".")[2])
    if isinstance(node, ast.NamedExpr):
        return number_of(node.value, names)
    if isinstance(node, ast.UnaryOp):
        inner = number_of(node.operand, names)
        return -inner if inner is not None and isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        return combined(type(node.op), node.left, node.right, names)
    if isinstance(node, ast.List | ast.Tuple):
        return number_of_all(node, names)
    return number_of_call(node, names) if isinstance(node, ast.Call) else None


def number_of_constant(value: object) -> float | None:
    """A literal's number; text that is one counts, as `int("1000")` is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | complex | str):
        return None
    if isinstance(value, str):
        return float(value) if value.isdecimal() else None
    return abs(value) if isinstance(value, complex) else value


def number_of_all(node: ast.List | ast.Tuple, names: Mapping[str, float]) -> float | None:
    """The number that counts in a row of them: 1000 or a thousandth where there is one, else the first."""
    numbers = [number for part in node.elts if (number := number_of(part, names)) is not None]
    return next(filter(is_telling, numbers), numbers[0] if numbers else None)


def number_of_call(node: ast.Call, names: Mapping[str, float]) -> float | None:
    """The number that a cast, a filled array, `pow` or `len(range(n))` of constants gives, or holds throughout."""
    function = node.func.attr if isinstance(node.func, ast.Attribute) else dotted_name(node.func)
    if function in FILLERS:
        filling = [keyword.value for keyword in node.keywords if keyword.arg == "fill_value"]
        return number_of([*node.args, *filling][-1], names) if node.args else None
    if function in ("ones", "ones_like"):
        return 1.0
    if isinstance(node.func, ast.Attribute) and function in KEEPERS:
        return number_of(node.func.value, names)
    if function == "pow" and len(node.args) == 2:
        return combined(ast.Pow, node.args[0], node.args[1], names)
    if function in CASTS and node.args:
        return number_of(node.args[0], names)
    if function in ("len", "range") and len(node.args) == 1:
        return number_of(node.args[0], names)
    return None


def combined(kind: type[ast.operator], left: ast.expr, right: ast.expr, names: Mapping[str, float]) -> float | None:
    """The result of an operator between two constant expressions."""
    first, second = number_of(left, names), number_of(right, names)
    if kind is ast.Mult and isinstance(left, ast.List | ast.Tuple):
        return first
    if first is None or second is None or kind not in OPERATORS:
        return None
    if max(abs(first), abs(second)) > LARGEST or (kind is ast.Pow and abs(second) > 10):
        return None
    try:
        result = OPERATORS[kind](first, second)
    except ArithmeticError:
        return None
    return round(result, 12) if isinstance(result, int | float) else None


def divides_by_thousand(node: ast.AST, names: Mapping[str, float], origins: dict[str, str]) -> bool:
    """Whether one node divides by 1000, or multiplies by 0.001, as an operator or as a call of a library."""
    if isinstance(node, ast.BinOp):
        return is_division(node.op, node.left, node.right, names)
    if isinstance(node, ast.AugAssign):
        return is_division(node.op, node.target, node.value, names)
    if isinstance(node, ast.Call):
        # What has no dotted name, such as a method of an expression, is told by its last part.
        last = node.func.attr if isinstance(node.func, ast.Attribute) else resolved_name(node.func, origins)
        last = last.rpartition(".")[2].strip("_")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        values = [abs(number) for part in given if (number := number_of(part, names)) is not None]
        return (last in DIVIDERS and BINS in values) or (last in MULTIPLIERS and THOUSANDTH in values)
    return False


def is_division(kind: ast.operator, left: ast.AST, right: ast.AST, names: Mapping[str, float]) -> bool:
    """Whether an operator between two operands takes a thousandth of something."""
    by, of = number_of(right, names), number_of(left, names)
    if isinstance(kind, ast.Div | ast.FloorDiv):
        return by is not None and abs(by) == BINS
    return isinstance(kind, ast.Mult) and any(number is not None and abs(number) == THOUSANDTH for number in (by, of))


def own_names(source: SourceFile, others: Mapping[str, float]) -> dict[str, float]:
    """What names mean 1000, or lead to it, in this module: other modules' that it does not bind itself, and its own."""
    pairs = [*bindings(source.tree), *given_names(source.tree)]
    bound = {name for name, _ in pairs}
    origins = {name: origin.rpartition(".")[2] for name, origin in imported_names(source.tree).items()}
    found = {name: others[last] for name, last in origins.items() if last in others}
    for _ in range(NAME_HOPS):
        for name, value in pairs:
            number = number_of(value, {**others, **found})
            if is_telling(number) or (is_last_bin(number) and name not in found):
                found[name] = number
    return {**{name: number for name, number in others.items() if name not in bound}, **found}


def given_names(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Parameters with their defaults, and attributes with what they are set to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            plain = [*node.posonlyargs, *node.args]
            yield from ((a.arg, d) for a, d in zip(reversed(plain), reversed(node.defaults), strict=False))
            yield from ((a.arg, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if d is not None)
        elif isinstance(node, ast.Assign):
            yield from ((target.attr, node.value) for target in node.targets if isinstance(target, ast.Attribute))


def divisions_by_thousand(source: SourceFile, names: Mapping[str, float] | None = None) -> Iterator[Violation]:
    """Divisions by 1000. `names` are other modules' names for 1000, for a thousandth and for the last bin."""
    known = own_names(source, names or {})
    origins = known_names(source)
    for node in ast.walk(source.tree):
        if divides_by_thousand(node, known, origins):
            message = "a division by 1000: bin k stands for k/999, so divide by 999"
            yield Violation(source.path, getattr(node, "lineno", 1), message)
