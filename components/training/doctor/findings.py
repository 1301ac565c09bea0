"""What the doctor finds: it is fine, worth a look, or a problem; what is not fine says what to change."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class State(enum.StrEnum):
    """How much a finding matters."""

    FINE = "fine"
    LOOK = "look"  # the training will run; a person should know
    PROBLEM = "problem"  # the training will fail, or teach what nobody wants


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what was seen."""

    check: str
    state: State
    text: str


def fine(check: str, text: str) -> Finding:
    """What needs no change."""
    return Finding(check, State.FINE, text)


def look(check: str, text: str) -> Finding:
    """What a person should know."""
    return Finding(check, State.LOOK, text)


def problem(check: str, text: str) -> Finding:
    """What has to be changed."""
    return Finding(check, State.PROBLEM, text)


def some(check: str, number: int, total: int, what: str, *, otherwise: str, limit: float = 0.0) -> Finding:
    """A problem where more than the share ``limit`` of ``total`` are ``what``; fewer are worth a look."""
    if not number:
        return fine(check, otherwise)
    return (problem if number > limit * total else look)(check, f"{number} of {total} {what}")


def show(findings: Sequence[Finding]) -> None:
    """Print a line for each finding to stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    styles = {State.FINE: "green", State.LOOK: "yellow", State.PROBLEM: "bold red"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for column in ("state", "check"):
        table.add_column(column, no_wrap=True)
    table.add_column("text", overflow="fold")
    for finding in findings:
        table.add_row(f"[{styles[finding.state]}]{finding.state}[/]", finding.check, escape(finding.text))
    Console(stderr=True, width=140).print(table)
