"""Accuracy against tokens: what each strategy buys."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOUR, _FRONT = "#2f6db5", "#d9822b"


def accuracy_figure(table: Mapping[str, Any]) -> "Figure":
    """Return a panel for all questions and one for each kind: accuracy over tokens a question, with 95 % intervals.

    The line joins the strategies that no cheaper one is as accurate as.
    """
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["kind"] for row in table["rows"]))
    columns = min(2, len(kinds))
    height = -(-len(kinds) // columns)
    figure = Figure(figsize=(5.4 * columns, 3.6 * height), layout="constrained")
    grid = figure.subplots(height, columns, squeeze=False)
    for axes in grid.flat[len(kinds) :]:
        axes.set_axis_off()
    for axes, kind in zip(grid.flat, kinds, strict=False):
        rows = sorted((row for row in table["rows"] if row["kind"] == kind), key=lambda row: row["tokens"]["mean"])
        for row in rows:
            x, y = row["tokens"], row["accuracy"]
            axes.errorbar(
                x["mean"],
                y["mean"],
                xerr=[[x["mean"] - x["low"]], [x["high"] - x["mean"]]],
                yerr=[[y["mean"] - y["low"]], [y["high"] - y["mean"]]],
                fmt="o",
                color=_COLOUR,
                capsize=2,
            )
            axes.annotate(row["name"], (x["mean"], y["mean"]), xytext=(4, 4), textcoords="offset points", fontsize=7)
        front = frontier(rows)
        places = [row["tokens"]["mean"] for row in front]
        axes.plot(places, [row["accuracy"]["mean"] for row in front], color=_FRONT, linewidth=1.2)
        axes.set_title(f"{kind} (n = {rows[0]['accuracy']['n']})", fontsize=9)
        axes.set_xlabel("tokens a question", fontsize=8)
        axes.set_ylabel("accuracy", fontsize=8)
        axes.set_xscale("log")
        axes.set_ylim(-0.02, 1.02)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def frontier(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return, of rows with fewest tokens first, those that are more accurate than all before them."""
    front: list[Mapping[str, Any]] = []
    for row in rows:
        if not front or row["accuracy"]["mean"] > front[-1]["accuracy"]["mean"]:
            front.append(row)
    return front
