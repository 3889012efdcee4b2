"""What the notebooks draw with: one look, small matrices with their numbers in the cells, images side by side.

A matrix is a tensor of (H, W); an image is (H, W), (1, H, W) or (3, H, W). Every function draws on the axes it is given
or returns the figure it made; pixels are never interpolated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from torch_convops.apparel.synthetic import synthetic_data

# The palette of Okabe and Ito: apart from each other for every kind of colour vision.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, YELLOW, BLACK, GREY = "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#7F7F7F"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
VALUES = "Blues"  # of a small matrix
SIGNED = "RdBu_r"  # of values about zero: blue below, red above
WIDTH = 9.0  # of a figure in inches: what a laptop's browser shows without scrolling

Window = tuple[int, int] | tuple[int, int, int, int]  # row, column and, unless it is one cell, height, width


def use_style() -> None:
    """Sets the common look of every figure that follows."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "legend.fontsize": 9,
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "grid.alpha": 0.3,
            "image.interpolation": "nearest",
            "image.cmap": "gray",
        }
    )


def photograph(number: int = 0, size: int = 128) -> torch.Tensor:
    """A drawn garment with cloth, shadow and noise, as float32 (3, size, size) of 0..1; the class is number mod 10."""
    picture = synthetic_data(train=number + 1, validation=0, test=0).train.images[number].float() / 255
    if size == picture.shape[-1]:
        return picture
    return torch.nn.functional.interpolate(picture[None], (size, size), mode="area")[0]


def grey(image: torch.Tensor) -> torch.Tensor:
    """The luminance (H, W) of a colour image (3, H, W)."""
    return torch.tensordot(torch.tensor([0.299, 0.587, 0.114], dtype=image.dtype), image, 1)


# --- small matrices ---


def number(value: float) -> str:
    """A value as short as its cell: an integer without a point, anything else with three digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = str(round(value)) if abs(value - round(value)) < 1e-9 else f"{value:.3g}"
    return text.replace("-", "−")


def show_matrix(
    axes: Axes,
    values: Any,
    title: str = "",
    *,
    highlight: Iterable[Window] = (),
    colour: str = VERMILION,
    padding: Sequence[int] = (0, 0, 0, 0),
    labels: tuple[str, str] = ("", ""),
    first: int = 0,
    cmap: str = VALUES,
    limits: tuple[float, float] | None = None,
    text: Sequence[Sequence[str]] | None = None,
    fontsize: float = 10,
) -> None:
    """Draws a matrix with its numbers.

    Args:
        axes: where to draw.
        values: (H, W).
        title: above the matrix.
        highlight: cells or windows to outline in ``colour``.
        padding: (top, bottom, left, right), how much of ``values`` is border: grey cells, with negative indices before
            the image.
        labels: names of the row and the column index.
        first: the index of the first row and column of the image: 1 on a blackboard.
        cmap: the colours of the values, which ``limits`` spans; by default as far as the values go, paler than the
            darkest, or evenly about zero for ``SIGNED``.
        text: what the cells say instead of the numbers.
        fontsize: of the cells in points.
    """
    matrix = torch.as_tensor(values).detach().to("cpu", torch.float64)
    H, W = matrix.shape
    top, bottom, left, right = padding
    colours = _mapping(matrix, cmap, limits)
    for h in range(H):
        for w in range(W):
            inside = top <= h < H - bottom and left <= w < W - right
            value = matrix[h, w].item()
            face = colours.to_rgba(value) if inside and math.isfinite(value) else (0.93, 0.93, 0.93, 1)
            luminance = 0.299 * face[0] + 0.587 * face[1] + 0.114 * face[2]
            ink = ("white" if luminance < 0.5 else "black") if inside else GREY
            axes.add_patch(Rectangle((w - 0.5, h - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.2))
            cell = number(value) if text is None else text[h][w]
            axes.text(w, h, cell, ha="center", va="center", color=ink, fontsize=fontsize)
    axes.set(xlim=(-0.5, W - 0.5), ylim=(H - 0.5, -0.5), aspect="equal", xlabel=labels[1])
    axes.set_ylabel(labels[0], rotation=0, va="center", labelpad=8)
    axes.set_xticks(range(W), [number(w - left + first) for w in range(W)])
    axes.set_yticks(range(H), [number(h - top + first) for h in range(H)])
    axes.tick_params(length=0, colors=GREY, pad=2)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    for window in highlight:
        outline(axes, *window, colour=colour)


def _mapping(matrix: torch.Tensor, cmap: str, limits: tuple[float, float] | None) -> ScalarMappable:
    finite = matrix[matrix.isfinite()]
    low, high = (finite.min().item(), finite.max().item()) if len(finite) else (0.0, 1.0)
    if limits is None and cmap == SIGNED:
        reach = 1.6 * max(abs(low), abs(high), 1e-12)
        limits = (-reach, reach)
    elif limits is None:
        limits = (low, high + 0.8 * (high - low) if high > low else low + 1)
    return ScalarMappable(Normalize(*limits), cmap)


def outline(
    axes: Axes,
    row: float,
    column: float,
    height: float = 1,
    width: float = 1,
    *,
    colour: str = VERMILION,
    linewidth: float = 2.5,
    linestyle: str = "-",
    inset: float = 0.0,
) -> None:
    """Draws a frame around ``height`` x ``width`` pixels; an inset keeps frames that share an edge apart."""
    axes.add_patch(
        Rectangle(
            (column - 0.5 + inset, row - 0.5 + inset),
            width - 2 * inset,
            height - 2 * inset,
            fill=False,
            edgecolor=colour,
            linewidth=linewidth,
            linestyle=linestyle,
            clip_on=False,
            zorder=3,
        )
    )


def show_row(items: Sequence[str | tuple[Any, str] | tuple[Any, str, dict[str, Any]]], *, cell: float = 0.45) -> Figure:
    """Draws matrices and the signs between them on one line, every cell ``cell`` inches wide.

    Args:
        items: a sign, or what :func:`show_matrix` takes: values, title and, where there are any, keywords.
    """
    gap, title_room, tick_room = 0.2, 0.75, 0.5
    drawn = [item if isinstance(item, str) else (item[0], item[1], item[2] if len(item) > 2 else {}) for item in items]
    widths = [_sign_width(item) if isinstance(item, str) else _matrix_width(item, cell) for item in drawn]
    tallest = max(len(item[0]) for item in drawn if not isinstance(item, str)) * cell
    width, height = sum(widths) + gap * (len(drawn) + 1), tallest + title_room + tick_room
    figure = plt.figure(figsize=(width, height), layout="none")
    x, middle = gap, tick_room + tallest / 2
    for item, room in zip(drawn, widths, strict=True):
        if isinstance(item, str):
            figure.text((x + room / 2) / width, middle / height, item, ha="center", va="center", fontsize=15)
        else:
            values, title, keywords = item
            h, w = len(values) * cell, len(values[0]) * cell
            place = ((x + (room - w + _INDEX_ROOM) / 2) / width, (middle - h / 2) / height, w / width, h / height)
            show_matrix(figure.add_axes(place), values, title, **keywords)
        x += room + gap
    return figure


_INDEX_ROOM = 0.35  # inches to the left of a matrix, for the row indices and their name


def _sign_width(sign: str) -> float:
    return 0.12 * max(1, len(sign))


def _matrix_width(item: tuple[Any, str, dict[str, Any]], cell: float) -> float:
    """As wide as the cells or the title, whichever is wider; a character of the title is about 0.08 inches."""
    drawn = re.sub(r"\\[a-z]+", "x", item[1]).replace("$", "").split("\n")  # a command of LaTeX is one sign
    return _INDEX_ROOM + max(len(item[0][0]) * cell, 0.08 * max(len(line) for line in drawn))


# --- images ---


def show_image(
    axes: Axes,
    image: Any,
    title: str = "",
    *,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
    bar: str | None = None,
) -> None:
    """Draws an image with its size below it; ``bar`` names what a colour bar beside it measures."""
    pixels = torch.as_tensor(image).detach().to("cpu", torch.float64)
    if pixels.dim() == 3:
        pixels = pixels.permute(1, 2, 0).squeeze(-1)
    if pixels.dim() == 3:
        drawn = axes.imshow(pixels.clamp(0, 1).numpy())
    else:
        if limits is None and cmap == SIGNED:
            reach = max(pixels.abs().max().item(), 1e-12)
            limits = (-reach, reach)
        low, high = limits or (pixels.min().item(), pixels.max().item())
        drawn = axes.imshow(pixels.numpy(), cmap=cmap, vmin=low, vmax=high)
    axes.set_title(title)
    axes.set(xticks=[], yticks=[], xlabel=f"{pixels.shape[0]} × {pixels.shape[1]} pixels")
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)
    if bar is not None:
        axes.figure.colorbar(drawn, ax=axes, shrink=0.75, label=bar)


def show_images(
    images: Sequence[Any],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    to_scale: bool = False,
    width: float = WIDTH,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
    bar: str | None = None,
) -> Figure:
    """Draws images side by side, ``columns`` a row; ``to_scale`` gives every pixel of every image the same size."""
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    sizes = [torch.as_tensor(image).shape[-2:] for image in images]
    column_widths = [max(size[1] for size in sizes[c::columns]) if to_scale else 1 for c in range(columns)]
    row_heights = [
        max(size[0] if to_scale else size[0] / size[1] for size in sizes[r * columns : (r + 1) * columns])
        for r in range(rows)
    ]
    extra = 0.62 + 0.17 * max(title.count("\n") for title in titles)  # title and size, in inches
    scale = (width - (0.9 if bar else 0.15) * columns) / sum(column_widths)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(width, scale * sum(row_heights) + extra * rows),
        squeeze=False,
        width_ratios=column_widths,
        height_ratios=row_heights,
    )
    for axes in grid.flat[len(images) :]:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        show_image(axes, image, title, cmap=cmap, limits=limits, bar=bar)
        if to_scale:
            axes.set_anchor("N")
    return figure
