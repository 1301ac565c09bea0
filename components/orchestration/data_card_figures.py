"""The figures of a preference table's data card, as SVG text."""

import itertools
from collections.abc import Mapping
from typing import Any

from components.orchestration.figures import COLOURS, as_svg, blank_figure

_SIZE = (4.7, 3.1)
_MOST_SOURCES = 12
_LONGEST_LABEL = 34


def source_bars(
    counts: Mapping[str, Mapping[str, int]], kinds: tuple[str, str] = ("train", "test"), unit: str = "pairs"
) -> str:
    """Return a bar for each of the largest sources, the counts of its two kinds end to end."""
    figure = blank_figure(*_SIZE)
    axes = figure.subplots()
    shown = list(counts.items())[:_MOST_SOURCES][::-1]
    first, second = ([own[kind] for _, own in shown] for kind in kinds)
    places = range(len(shown))
    axes.barh(places, first, 0.6, color=COLOURS[0], label=kinds[0])
    axes.barh(places, second, 0.6, left=first, color=COLOURS[2], label=kinds[1])
    axes.set_yticks(places, [_shortened(name) for name, _ in shown])
    axes.set_ylim(-1, len(shown))
    axes.set_xlabel(unit, fontsize=8)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return as_svg(figure)


def length_histogram(lengths: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how long prompts and answers are, each as an outline over a logarithmic axis."""
    figure = blank_figure(*_SIZE)
    axes = figure.subplots()
    for (part, own), colour in zip(lengths.items(), (COLOURS[5], COLOURS[1], COLOURS[3]), strict=True):
        if own["counts"]:
            axes.stairs(own["counts"], own["edges"], color=colour, label=part, linewidth=1.5)
    axes.set_xscale("log")
    axes.set_xlabel("characters", fontsize=8)
    axes.set_ylabel("texts", fontsize=8)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return as_svg(figure)


def ratio_histogram(ratios: Mapping[str, Any]) -> str:
    """Return the distribution of log2(chosen length / rejected length): right of the line the chosen is longer."""
    figure = blank_figure(*_SIZE)
    axes = figure.subplots()
    edges, counts = ratios["edges"], ratios["counts"]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    colours = [COLOURS[1] if middle > 0 else COLOURS[3] for middle in middles]
    axes.bar(middles, counts, edges[1] - edges[0], color=colours)
    axes.axvline(0, color="#868e96", linewidth=1, linestyle="--")
    ticks = [-4, -2, -1, 0, 1, 2, 4]
    axes.set_xticks(ticks, ["1/16", "1/4", "1/2", "1", "2", "4", "16"])
    axes.set_xlabel("length of chosen over length of rejected", fontsize=8)
    axes.set_ylabel("pairs", fontsize=8)
    return as_svg(figure)


def dropped_bars(counts: Mapping[str, int]) -> str:
    """Return a bar for each reason why pairs were left out, with its count."""
    figure = blank_figure(*_SIZE)
    axes = figure.subplots()
    shown = sorted(counts.items(), key=lambda item: item[1])
    bars = axes.barh(range(len(shown)), [count for _, count in shown], 0.6, color=COLOURS[3])
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), [_shortened(name) for name, _ in shown])
    axes.set_ylim(-1, len(shown))
    axes.margins(x=0.15)
    axes.set_xlabel("pairs", fontsize=8)
    return as_svg(figure)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
