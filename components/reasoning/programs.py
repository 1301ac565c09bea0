"""The program in what a model wrote."""

import ast
import re
import textwrap

_BLOCK = re.compile(r"```(python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_FIRST_LINE = re.compile(r"^(?:def |import |from |print\(|[A-Za-z_]\w*(?:\s*,\s*\w+)*\s*[-+*/]?=(?!=))", re.MULTILINE)


def source_of(text: str) -> str:
    """Return the program in a text: its last code block, or all from the first line that can only be code; else ''.

    Where blocks say that they are Python, the others are not taken for programs: models like to show what is printed.
    A function ``solution`` that is not called is called at the end, and printed.
    """
    blocks = _BLOCK.findall(text)
    if blocks:
        source = [source for language, source in blocks if language or not any(marked for marked, _ in blocks)][-1]
    else:
        first = _FIRST_LINE.search(text)
        source = text[first.start() :] if first else text if _is_expression(text) else ""
    source = textwrap.dedent(source.replace("\t", "    ")).strip("\n")
    if re.search(r"^def solution\(\s*\)", source, re.MULTILINE) and not re.search(
        r"^(?!def ).*\bsolution\(\s*\)", source, re.MULTILINE
    ):
        source += "\n\nprint(solution())"
    return source


def is_open(text: str) -> bool:
    """Return whether a text ends within its program, so that one that was cut off there has lost a part of it."""
    fences = text.count("```")
    return fences % 2 == 1 or fences == 0


def _is_expression(text: str) -> bool:
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(body, (ast.BinOp, ast.Call, ast.UnaryOp, ast.Compare))
