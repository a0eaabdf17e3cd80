"""PURE: the pictures of docs/benchmarks.md, as SVG: the same numbers give the same bytes, with the same matplotlib."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.records import TIMES
from tests.benchmarks.tables import DATABASES, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.records import Measurement, Results

__all__ = ["pictures"]

STYLE: Any = {
    "svg.hashsalt": "statelatch",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
OURS, FLOOR, PEER = "#1f6feb", "#57606a", "#b6bec8"
LINES = {"send": ("#57606a", "o"), "send_batch": ("#1f6feb", "s"), "send_where": ("#bf5700", "^")}


def pictures(results: Results) -> dict[str, str]:
    """The pictures by file name."""
    return {
        "benchmarks-transition.svg": _drawn(results["transition"], _bars, "µs a transition", height=2.6),
        "benchmarks-growth.svg": _drawn(results["growth"], _lines, "rows", height=3.2),
    }


def _drawn(found: Mapping[str, Sequence[Measurement]], draw: Any, label: str, *, height: float) -> str:
    """One panel for each database."""
    with cast("Any", mpl).rc_context(STYLE):
        figure: Any = cast("Any", Figure)(figsize=(3.6 * len(found) + 1.6, height), layout="constrained")
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for panel, (dialect, measurements) in zip(panels, found.items(), strict=True):
            draw(panel, measurements)
            panel.set_title(DATABASES.get(dialect, dialect))
            panel.set_xlabel(label)
            panel.label_outer()
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _bars(panel: Any, measurements: Sequence[Measurement]) -> None:
    """The medians, the floor above; beside each bar how many times the floor it is."""
    names = [each.name for each in measurements]
    medians = [each.median for each in measurements]
    colours = [FLOOR, *(OURS if name.startswith("statelatch") else PEER for name in names[1:])]
    bars = panel.barh(names, medians, color=colours)
    panel.bar_label(bars, [f"{number(each)} µs, {number(each / medians[0])} {TIMES}" for each in medians], padding=3)
    panel.set_xlim(0, max(medians) * 1.5)
    panel.invert_yaxis()


def _lines(panel: Any, measurements: Sequence[Measurement]) -> None:
    """µs a row against rows, both on a logarithmic scale."""
    for name, (colour, marker) in LINES.items():
        points = [(each.rows, each.median) for each in measurements if each.name == name]
        rows, medians = zip(*points, strict=True)
        panel.plot(rows, medians, color=colour, marker=marker, markersize=4, label=name)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.grid(visible=True, which="major", color="#e6e8eb")
    panel.set_ylabel("µs a row")
    if panel.get_subplotspec().is_first_col():
        panel.legend(frameon=False)
