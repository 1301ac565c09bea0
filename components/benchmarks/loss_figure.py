"""The loss curves of all sides of a benchmark, step by step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from components.benchmarks.compare import largest_gap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {
    "ours": {"color": "#2f6db5", "linewidth": 1.8},
    "tuned": {"color": "#d9822b", "linewidth": 1.4, "linestyle": "--", "marker": "o", "markersize": 4},
    "as_it_comes": {"color": "#6b6b6b", "linewidth": 1.0, "linestyle": ":", "marker": "x", "markersize": 4},
}
_TITLES = {"none": "all weights", "lora": "LoRA"}


def loss_figure(losses: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """Return a panel for each phase.

    Args:
        losses: name of the phase (what is trained, a dash, the number format) → side → the loss of each step.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(2, len(losses))
    rows = -(-len(losses) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(losses) :]:
        axes.set_axis_off()
    for axes, (phase, sides) in zip(grid.flat, losses.items(), strict=False):
        for side, own in sides.items():
            label = "ours" if side == "ours" else f"TRL {side.replace('_', ' ')}"
            axes.plot(range(1, len(own) + 1), own, label=label, **_STYLES[side])
        adapter, _, dtype = phase.partition("-")
        gap = largest_gap(sides["ours"], sides["tuned"])
        axes.set_title(f"{_TITLES[adapter]}, {dtype}: ours and TRL tuned at most {gap:.1g} apart", fontsize=9)
        axes.set_xlabel("optimizer step", fontsize=8)
        axes.set_ylabel("DPO loss", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, frameon=False)
    return figure
