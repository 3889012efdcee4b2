"""The roofline of a benchmark: what each row reaches of the two ceilings, in both libraries. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .ceilings import Ceilings
from .measure import Measurement

_WIDTH = 8.0  # inches of a panel, the labels beside it included
_FONT = 8  # points
_LINE = 1.3 * _FONT / 72  # inches that a label takes
_GREY = "0.6"
# Of a measurement: name, its milliseconds, how its marker looks.
_LIBRARIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("torch_convops", "ours_ms", {"marker": "o"}),
    ("torch", "torch_ms", {"marker": "o", "markerfacecolor": "white"}),
    ("torch.compile", "compile_ms", {"marker": "x"}),
)


def plot(measurements: Sequence[Measurement], ceilings: Ceilings, path: Path, title: str = "") -> None:
    """Writes what :func:`draw` draws to a ``.png`` or ``.svg``."""
    draw(measurements, ceilings, title).savefig(path, dpi=110)


def draw(measurements: Sequence[Measurement], ceilings: Ceilings, title: str = "") -> Figure:
    """Draws convolutions as a roofline (S. Williams et al., 2009) and poolings, bound by memory, by their bandwidth.

    A panel is for one pass and memory format; the points of a row are joined by a line. Flops and bytes are the least
    that a pass needs, the same for all libraries.
    """
    passes = list(dict.fromkeys(m.pass_ for m in measurements))
    formats = list(dict.fromkeys(m.format for m in measurements))
    families = list(dict.fromkeys(m.family for m in measurements))
    colors = {family: f"C{index}" for index, family in enumerate(families)}
    bands = []  # rows of panels
    for panel, with_flops in ((_roofline, True), (_bandwidth, False)):
        for pass_ in passes:
            cells = [
                [m for m in measurements if (m.format, m.pass_, m.flops > 0) == (format_, pass_, with_flops)]
                for format_ in formats
            ]
            if any(cells):
                bands.append((panel, pass_, cells))
    heights = [max(3.2, 0.8 + 1.5 * _LINE * max(map(len, cells))) for _, _, cells in bands]
    figure = Figure(figsize=(_WIDTH * len(formats), sum(heights) + 1.0), layout="constrained")
    axes = figure.subplots(len(bands), len(formats), squeeze=False, height_ratios=heights)
    for line, height, (panel, pass_, cells) in zip(axes, heights, bands, strict=True):
        for ax, format_, cell in zip(line, formats, cells, strict=True):
            if cell:
                ax.set_title(f"{format_}, {pass_}", fontsize=_FONT + 3)
                ax.tick_params(labelsize=_FONT + 1)
                panel(ax, cell, ceilings, colors, height)
            else:
                ax.set_axis_off()
    handles = [
        Line2D([], [], color="black", linestyle="", label=name, **marker)
        for name, time, marker in _LIBRARIES
        if any(getattr(m, time) is not None for m in measurements)
    ]
    handles += [Line2D([], [], color=color, linewidth=3, label=family) for family, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=_FONT + 1, frameon=False)
    figure.suptitle(title, fontsize=_FONT + 4)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    return figure


def _roofline(ax: Any, cell: list[Measurement], ceilings: Ceilings, colors: dict[str, str], height: float) -> None:
    """GF/s over flops a byte."""
    x = [m.flops / m.bytes for m in cell]
    y = [_times(m) for m in cell]
    rates = [[m.flops / ms / 1e6 for ms in times.values()] for m, times in zip(cell, y, strict=True)]
    left, right = min(x) / 1.5, max(x) * 1.5
    copy, matmul = ceilings.copy_bytes / 1e9, ceilings.matmul_flops / 1e9
    ax.set(xscale="log", yscale="log", xlabel="flops a byte", ylabel="GF/s", xlim=(left, right))
    values = [rate for row in rates for rate in row]
    ax.set_ylim(min(values) / 1.5, max(*values, matmul) * 2)
    ax.axhline(matmul, color=_GREY, zorder=1)
    ax.axline((left, left * copy), (right, right * copy), color=_GREY, zorder=1)
    ax.annotate(
        f"matmul {_number(matmul)} GF/s", (0.01, matmul), xycoords=("axes fraction", "data"), xytext=(0, 3),
        textcoords="offset points", fontsize=_FONT, color="0.4",
    )  # fmt: skip
    top = min(ax.get_ylim()[1], right * copy)  # where the slope leaves the panel: little is above it
    ax.annotate(
        f"copy {_number(copy)} GB/s", (top / copy, top), xytext=(-24, -3), textcoords="offset points", fontsize=_FONT,
        color="0.4", ha="right", va="top",
    )  # fmt: skip
    for m, intensity, times in zip(cell, x, y, strict=True):
        _points(ax, colors[m.family], {name: (intensity, m.flops / ms / 1e6) for name, ms in times.items()})
    anchors = [(intensity, row[0]) for intensity, row in zip(x, rates, strict=True)]
    _plain_ticks(ax.xaxis, ax.yaxis)
    _label_beside(ax, [m.row for m in cell], anchors, [colors[m.family] for m in cell], height)
    ax.grid(True, which="major", alpha=0.25)


def _bandwidth(ax: Any, cell: list[Measurement], ceilings: Ceilings, colors: dict[str, str], height: float) -> None:
    """GB/s, a line for each row."""
    copy = ceilings.copy_bytes / 1e9
    for place, m in enumerate(cell):
        _points(ax, colors[m.family], {name: (m.bytes / ms / 1e6, place) for name, ms in _times(m).items()})
    ax.axvline(copy, color=_GREY, zorder=1)
    ax.annotate(
        f"copy {_number(copy)} GB/s", (copy, 0.01), xycoords=("data", "axes fraction"), xytext=(3, 0),
        textcoords="offset points", fontsize=_FONT, color="0.4",
    )  # fmt: skip
    rates = [m.bytes / ms / 1e6 for m in cell for ms in _times(m).values()]
    limits = (min(*rates, copy) / 1.3, max(*rates, 3 * copy) * 1.3)  # with room for the ceiling's label
    ax.set(xscale="log", xlabel="GB/s", xlim=limits, ylim=(len(cell), -1))
    _plain_ticks(ax.xaxis)
    ax.set_yticks(range(len(cell)), [m.row for m in cell])
    ax.grid(True, axis="x", which="major", alpha=0.25)


def _number(rate: float) -> str:
    return f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}"


def _plain_ticks(*axes: Any) -> None:
    """Numbers as they are read, 1, 2, 5, 10, ..., in place of powers of ten."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        axis.set_minor_formatter(NullFormatter())


def _times(m: Measurement) -> dict[str, float]:
    """Milliseconds by library."""
    times = {name: getattr(m, time) for name, time, _ in _LIBRARIES}
    return {name: ms for name, ms in times.items() if ms is not None}


def _points(ax: Any, color: str, points: dict[str, tuple[float, float]]) -> None:
    ax.plot(*zip(*points.values(), strict=True), color=color, linewidth=1, alpha=0.7, zorder=2)
    markers = {name: marker for name, _, marker in _LIBRARIES}
    for name, point in points.items():
        ax.plot(*point, color=color, markersize=6, linestyle="", zorder=3, **markers[name])


def _label_beside(
    ax: Any, labels: Sequence[str], points: Sequence[tuple[float, float]], colors: Sequence[str], height: float
) -> None:
    """Names points in a column at the right, in the order of their heights and a line's height apart."""
    to_axes = ax.transScale + ax.transLimits  # of the panel's scale and limits alone, whatever its size becomes
    heights = [float(to_axes.transform(point)[1]) for point in points]
    order = sorted(range(len(points)), key=lambda index: heights[index])
    places = spread([heights[index] for index in order], _LINE / (height - 0.8))
    for index, place in zip(order, places, strict=True):
        ax.annotate(
            labels[index], points[index], xytext=(1.03, place), textcoords="axes fraction", fontsize=_FONT,
            color=colors[index], va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colors[index], "linewidth": 0.5, "alpha": 0.5,
                        "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved to be at least ``gap`` apart within 0 and 1, as far as that has room for them."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else max(place, 0.0))
    limit = 1.0
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved
