"""Figures of equivariance. Each function returns a figure; nothing is shown, and pyplot is not used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise, product

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from .consistency import ConsistencyCurve
from .errors import EquivarianceErrors

ERROR = "relative error"
DPI = 120
FEW = 6  # curves that the colours of the default cycle keep apart, and whose legend finds room beside them


def error_curves(results: Mapping[str, EquivarianceErrors], title: str = "Equivariance error") -> Figure:
    """Error against shift, one line a result; on a logarithmic axis, zero below it, where errors are decades apart.

    The shifts of a result lie on one line through no shift: down, right, or both by the same.
    """
    figure = _figure(7.5, 4.6)
    draw_error_curves(figure.subplots(), results, title)
    return figure


def error_map(result: EquivarianceErrors, title: str = "Equivariance error by shift") -> Figure:
    """Error by shift, down (rows) and right (columns); the shifts form a whole grid."""
    values = dict(zip(result.shifts, result.errors, strict=True))
    downs, rights = (sorted({by[axis] for by in result.shifts}) for axis in (0, 1))
    if len(values) != len(downs) * len(rights):
        raise ValueError(f"error_map: {len(values)} shifts are no grid of {len(downs)} by {len(rights)}")
    grid = torch.tensor([values[by] for by in product(downs, rights)]).view(len(downs), len(rights))
    figure = _figure(6.4, 5.4)
    axes = figure.subplots()
    image = axes.pcolormesh(_edges(rights), _edges(downs), grid.numpy(), cmap="magma", vmin=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set(title=title, xlabel="shift to the right (pixels)", ylabel="shift down (pixels)")
    figure.colorbar(image, ax=axes).set_label(ERROR)
    return figure


def pixel_error_map(error: Tensor, title: str = "Equivariance error by output pixel") -> Figure:
    """What :func:`torch_convops.equivariance.equivariance_map` returns, as a picture."""
    figure = _figure(6.4, 5.4)
    axes = figure.subplots()
    image = axes.imshow(error.numpy(), cmap="magma", vmin=0)
    axes.set(title=title, xlabel="output column (pixels)", ylabel="output row (pixels)")
    figure.colorbar(image, ax=axes).set_label(ERROR)
    return figure


def consistency_curves(curves: Mapping[str, ConsistencyCurve], title: str = "Shift-consistency") -> Figure:
    """The share of pictures that keep their class, against the distance they move; one line a curve."""
    figure = _figure(7.5, 4.6)
    draw_consistency_curves(figure.subplots(), curves, title)
    return figure


def summary(curves: Mapping[str, ConsistencyCurve], results: Mapping[str, EquivarianceErrors], title: str) -> Figure:
    """Consistency by distance beside equivariance errors by shift."""
    figure = _figure(13, 5)
    left, right = figure.subplots(1, 2)
    draw_consistency_curves(left, curves, "Shift-consistency")
    draw_error_curves(right, results, "Equivariance error")
    figure.suptitle(title)
    return figure


def draw_error_curves(axes: Axes, results: Mapping[str, EquivarianceErrors], title: str) -> None:
    """:func:`error_curves` on axes of the caller's."""
    directions = {_direction(result) for result in results.values()}
    if many := len(results) > FEW:  # in order, as the layers of a network are
        axes.set_prop_cycle(color=colormaps["viridis_r"](torch.linspace(0.1, 1, len(results)).numpy()))
    for label, result in results.items():
        points = sorted((max(by, key=abs), error) for by, error in zip(result.shifts, result.errors, strict=True))
        axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=label)
    positive = [error for result in results.values() for error in result.errors if 0 < error < math.inf]
    if positive and min(positive) < 1e-3 * max(positive):
        least = 10.0 ** math.floor(math.log10(min(positive)))
        axes.set_yscale("symlog", linthresh=least)  # an error of exactly 0 has a place, too
        axes.set_ylim(bottom=-least / 3)
    else:
        axes.set_ylim(bottom=0)
    where = f" {directions.pop()}" if len(directions) == 1 else ""
    axes.set(title=title, xlabel=f"shift{where} (pixels)", ylabel=ERROR)
    axes.grid(alpha=0.3)
    if many:  # they would cover the curves
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    else:
        axes.legend()


def draw_consistency_curves(axes: Axes, curves: Mapping[str, ConsistencyCurve], title: str) -> None:
    """:func:`consistency_curves` on axes of the caller's."""
    for label, curve in curves.items():
        axes.plot(curve.distances, curve.consistency, "o-", markersize=4, label=label)
    axes.set(title=title, xlabel="distance moved (pixels)", ylabel="pictures of the same class as unmoved (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    lowest = min(min(curve.consistency) for curve in curves.values())
    axes.set_ylim(min(0.9, lowest - 0.02), 1.01)
    axes.grid(alpha=0.3)
    axes.legend()


def _direction(result: EquivarianceErrors) -> str:
    downs, rights = zip(*result.shifts, strict=True)
    if not any(downs):
        return "to the right"
    if not any(rights):
        return "down"
    if downs == rights:
        return "down and to the right"
    raise ValueError("error_curves: shifts must be down, to the right, or down and to the right by the same")


def _edges(centres: list[float]) -> list[float]:
    """Where cells of these centres meet; one cell is a pixel wide."""
    if len(centres) == 1:
        return [centres[0] - 0.5, centres[0] + 0.5]
    middles = [(a + b) / 2 for a, b in pairwise(centres)]
    return [2 * centres[0] - middles[0], *middles, 2 * centres[-1] - middles[-1]]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
