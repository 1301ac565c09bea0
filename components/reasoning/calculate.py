"""Arithmetic in a line, computed exactly: numbers, + - * / // % **, brackets and a few functions."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "round": lambda value, places=0: Fraction(round(value, _small(Fraction(places), 30))),
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "sqrt": lambda value: _root(value),
    "factorial": lambda value: Fraction(math.factorial(_small(value, 200))),
}
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "$": "", "€": "", "£": ""})
_LONGEST, _LARGEST_POWER, _MOST_BITS = 300, 1000, 20_000


def calculate(expression: str) -> Fraction:
    """Return the exact value; a root that is not rational is the closest number of double precision.

    Raises:
        ValueError: it is no arithmetic, divides by zero, or is too large to be anybody's question.
    """
    text = re.sub(r"(?<=\d),(?=\d{3})", "", expression.strip().rstrip("=?").translate(_SIGNS))
    text = re.sub(r"(\d+(?:\.\d+)?|\.\d+)\s*%(?!\s*[\d(.])", r"(\1/100)", text)
    text = re.sub(r"(?<=[\d)])\s+of\s+(?=[\d(])", "*", text)
    if len(text) > _LONGEST:
        raise ValueError(f"got {len(text)} characters: give at most {_LONGEST}")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, TypeError, OverflowError) as error:
        raise ValueError(f"'{expression.strip()[:60]}' is no arithmetic: write numbers, + - * / ** and ()") from error
    except ZeroDivisionError as error:
        raise ValueError("division by zero") from error


def shown(value: Fraction) -> str:
    """Return a value as people write it: whole, or with at most 10 decimals."""
    if value.denominator == 1:
        return str(value.numerator)
    try:
        return f"{float(value):.10f}".rstrip("0").rstrip(".")
    except OverflowError as error:
        raise ValueError("the result is too large to be written as a decimal") from error


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return Fraction(str(node.value)) if isinstance(node.value, float) else Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else _value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _bounded(Fraction(_power(left, right)))
        if type(node.op) not in _BINARY:
            raise SyntaxError("an operation of bits")
        return _bounded(Fraction(_BINARY[type(node.op)](left, right)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise ValueError(f"there is no function '{node.func.id}': there are {', '.join(_FUNCTIONS)}")
        return _bounded(Fraction(_FUNCTIONS[node.func.id](*map(_value, node.args))))
    raise SyntaxError("something else than numbers")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _root(base) if exponent == Fraction(1, 2) else Fraction(float(base) ** float(exponent))
    power = _small(abs(exponent), _LARGEST_POWER)
    if power * max(base.numerator.bit_length(), base.denominator.bit_length()) > _MOST_BITS:
        raise ValueError("the result is too large")
    return base**power if exponent >= 0 else 1 / base**power


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise ValueError("no root of a negative number")
    over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if over**2 == value.numerator and under**2 == value.denominator:
        return Fraction(over, under)
    return Fraction(math.sqrt(value))


def _small(value: Fraction, most: int) -> int:
    if value.denominator != 1 or not 0 <= value <= most:
        raise ValueError(f"expected a whole number from 0 to {most}, got {shown(value)}")
    return int(value)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise ValueError("the result is too large")
    return value
