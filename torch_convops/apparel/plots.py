"""Figures of a training run. Each function returns a figure; nothing is shown, and pyplot is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .training import TrainResult, replacing

DPI = 120
TRAIN, VALIDATION, RIGHT, WRONG = "tab:blue", "tab:orange", "tab:green", "tab:red"


def save_figures(result: TrainResult, out: Path) -> list[Path]:
    """Write ``learning_curves.png``, ``confusion_matrix.png`` and ``predictions.png``; return the paths."""
    paths = []
    for draw in (learning_curves, confusion_matrix, predictions):
        paths.append(out / f"{draw.__name__}.png")
        with replacing(paths[-1]) as file:
            draw(result).savefig(file, format="png", dpi=DPI)
    return paths


def learning_curves(result: TrainResult) -> Figure:
    """Loss and accuracy by epoch, with the epoch of the kept weights marked."""
    figure = _figure(result, "learning curves", width=10, height=4.6)
    losses, accuracies = figure.subplots(1, 2)
    epochs = range(1, len(result.history) + 1)
    for axes, quantity, label in (
        (losses, "loss", "mean cross entropy (nats)"),
        (accuracies, "accuracy", "accuracy (% of pictures)"),
    ):
        for split, prefix, colour in (("training", "train", TRAIN), ("validation", "val", VALIDATION)):
            values = [getattr(record, f"{prefix}_{quantity}") for record in result.history]
            axes.plot(epochs, values, "o-", color=colour, markersize=4, label=split)
        axes.axvline(result.kept_epoch, color="grey", linestyle="--", linewidth=1, label="weights kept")
        axes.set(title=quantity.capitalize(), xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    accuracies.set_ylim(top=1)
    accuracies.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    accuracies.axhline(result.test_accuracy, color=RIGHT, linestyle=":", label=f"test, {result.test_accuracy:.1%}")
    losses.legend()
    accuracies.legend(loc="best")
    return figure


def confusion_matrix(result: TrainResult) -> Figure:
    """Test pictures by true and predicted class: counts, shaded by their share of the true class."""
    figure = _figure(result, f"test accuracy {result.test_accuracy:.1%}", width=8.6, height=8)
    axes = figure.subplots()
    counts = result.confusion.numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    ticks = range(len(counts))
    axes.set_xticks(ticks, result.data.classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, result.data.classes)
    axes.set(title="Number of test pictures", xlabel="predicted class", ylabel="true class")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1.0, symbol=""))
    bar.set_label("share of the true class (%)")
    return figure


def predictions(result: TrainResult, rows: int = 4, columns: int = 6) -> Figure:
    """Test pictures, a seeded choice, with the class predicted and its probability; wrong ones in red."""
    figure = _figure(result, "predictions on test pictures", width=2.0 * columns, height=2.5 * rows + 0.8)
    test = result.data.test
    generator = torch.Generator().manual_seed(result.config.seed)
    chosen = torch.randperm(len(test), generator=generator)[: rows * columns].tolist()
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, chosen, strict=False):
        probability, predicted = result.probabilities[index].max(0)
        names = (result.data.classes[int(predicted)], result.data.classes[int(test.labels[index])])
        axes.imshow(test.images[index].permute(1, 2, 0).numpy())
        _caption(axes, *names, float(probability))
    return figure


def ablation(study: dict[str, Any]) -> Figure:
    """Test accuracy with each cure alone and with one more at a time, of what ``ablation.json`` holds."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    outcomes = study["outcomes"]
    plain = outcomes[0]["mean"]
    panels = (("Each cure alone", False, TRAIN), ("One more at a time", True, RIGHT))
    for axes, (title, added, colour) in zip(figure.subplots(1, 2, sharex=True), panels, strict=True):
        shown = [outcome for outcome in outcomes if outcome["added"] == added and outcome["cures"]]
        means, spreads = ([outcome[key] for outcome in shown] for key in ("mean", "spread"))
        bars = axes.barh([outcome["name"] for outcome in shown], means, xerr=spreads, color=colour, alpha=0.75)
        axes.bar_label(bars, [f"{100 * mean:.1f}" for mean in means], label_type="center", color="white")
        axes.axvline(plain, color=WRONG, linestyle="--", label=f"plain CNN, {100 * plain:.1f}")
        axes.invert_yaxis()
        axes.set(title=title, xlabel="test accuracy (%)", xlim=(0, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="upper right")
    name = "synthetic" if study["data"] == "synthetic" else Path(study["data"]).name
    seeds = " or ".join(map(str, sorted({len(outcome["seeds"]) for outcome in outcomes})))
    effort = f"{study['epochs']} epochs, mean and standard deviation of {seeds} seeds"
    figure.suptitle(f"What each cure is worth: {name} pictures, {effort}")
    return figure


def _caption(axes: Axes, predicted: str, true: str, probability: float) -> None:
    right = predicted == true
    colour = RIGHT if right else WRONG
    verdict = "✓" if right else f"✗ true: {true}"
    axes.set_title(f"{predicted}, {probability:.0%}\n{verdict}", color=colour, fontsize=10)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5)


def _figure(result: TrainResult, subject: str, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    directory = result.data.directory
    pictures = "synthetic pictures" if directory is None else f"pictures from {directory.name}"
    figure.suptitle(f"{result.config.name}: {subject}\n{pictures}, backend {result.config.backend}")
    return figure
