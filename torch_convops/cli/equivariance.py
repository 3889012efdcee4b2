"""``convops equivariance``: how a trained classifier takes it when its pictures move."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table
from torch import Tensor, nn

from ..apparel.data import ApparelData, ApparelError, Split, load_image_folder, normalize
from ..apparel.synthetic import synthetic_data
from ..apparel.trained import load_classifier
from ..apparel.training import replacing, resolve_device
from ..equivariance import (
    BORDERS,
    ConsistencyCurve,
    EquivarianceErrors,
    ShiftConsistency,
    consistency_curve,
    equivariance_errors,
    shift_consistency,
)
from . import _options
from ._tables import make_console, print_table

SHIFTS = (0.5, 1.0, 2.0, 4.0, 8.0)  # pixels to the right
SYNTHETIC_PICTURES = 300  # the test split that `convops train` draws
LAYER_PICTURES = 32  # errors of layers are norms, which few pictures tell as well as many
BATCH = 64
# What treats each pixel by itself belongs to the layer ahead of it.
POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Identity, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d)


@click.command()
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    required=True,
    help="The OUT of `convops train`, or the weights.pt in it.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Directory train|validation|test/<class>/<picture>, of which test is used.  [default: synthetic pictures]",
)
@click.option("--pictures", type=int, default=200, show_default=True, help="At most so many, chosen by the seed.")
@click.option("--max-shift", type=int, default=8, show_default=True, help="Pixels, along each axis.")
@click.option(
    "--border",
    type=click.Choice(list(BORDERS)),
    default="reflect",
    show_default=True,
    help="What moves into a picture, for the consistency; layers get circular shifts.",
)
@click.option("--repeats", type=int, default=5, show_default=True, help="Random pairs of shifts of each picture.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the pictures and their shifts.")
@_options.backend
@_options.device
@click.option("--out", type=click.Path(path_type=Path), help="Directory for equivariance.json and equivariance.png.")
def command(
    weights: Path, data: Path | None, pictures: int, max_shift: int, border: str, repeats: int, seed: int, backend: str,
    device: str, out: Path | None,
) -> None:  # fmt: skip
    """Measure how a trained classifier takes it when its pictures move.

    Prints its shift-consistency: the share of pairs of random shifts of one picture, up to MAX_SHIFT pixels apart along
    each axis, that get the same class (Zhang 2019); the share of pictures that keep their class by the distance they
    move; and the equivariance error of the network up to each of its layers: the norm of the difference between the
    output of the shifted picture and the shifted output, relative to that of the output.
    """
    for name, value, least in (("pictures", pictures, 1), ("max-shift", max_shift, 1), ("repeats", repeats, 1)):
        if value < least:
            raise click.ClickException(f"--{name} must be at least {least}, got {value}")
    if not 0 <= seed < 2**63:
        raise click.ClickException(f"--seed must be in 0..2**63-1, got {seed}")
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        place = resolve_device(device)
        classifier = load_classifier(weights, place, backend)
        split = _test_split(data, classifier.classes)
        report = _measure(classifier.model, split, pictures, max_shift, border, repeats, seed, place)
        report = {
            "weights": str(weights),
            "model": classifier.name,
            "backend": backend,
            "data": "synthetic" if data is None else str(data),
            "border": border,
            "seed": seed,
            **report,
        }
        console = make_console()
        for table in (_classifier_table(report), _layer_table(report)):
            print_table(console, table)
        if out is not None:
            _write(report, out)
            console.print(f"written into {out}", soft_wrap=True)
    except (ValueError, OSError) as error:  # ApparelError is a ValueError
        raise click.ClickException(str(error)) from error


def _test_split(data: Path | None, classes: tuple[str, ...]) -> Split:
    source: ApparelData = synthetic_data(0, 0, SYNTHETIC_PICTURES) if data is None else load_image_folder(data)
    if source.classes != classes:
        raise ApparelError(
            f"the classes of {source.source} ({', '.join(source.classes)}) are not those of the weights "
            f"({', '.join(classes)})"
        )
    return source.test


@torch.no_grad()
def _measure(
    model: nn.Module, split: Split, pictures: int, max_shift: int, border: str, repeats: int, seed: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(split), generator=generator)[:pictures]
    pixels = normalize(split.images[chosen].to(device))
    labels = split.labels[chosen]
    classes = torch.cat([model(batch).argmax(1).cpu() for batch in pixels.split(BATCH)])
    options: dict[str, Any] = {"border": border, "batch_size": BATCH}
    return {
        "pictures": len(chosen),
        "accuracy": float((classes == labels).double().mean()),
        "consistency": shift_consistency(model, pixels, max_shift, repeats=repeats, generator=generator, **options),
        "curve": consistency_curve(model, pixels, _distances(max_shift), **options),
        "layer_pictures": len(pixels[:LAYER_PICTURES]),
        "layers": {
            name: equivariance_errors(layer, pixels[:LAYER_PICTURES], [(0, by) for by in SHIFTS], batch_size=BATCH)
            for name, layer in _layers(model, pixels[:1]).items()
        },
    }


def _distances(longest: int) -> list[int]:
    """Every pixel up to 8, then in steps that grow by a quarter."""
    distances = [0]
    while distances[-1] < longest:
        distances.append(min(longest, distances[-1] + max(1, distances[-1] // 4)))
    return distances


def _layers(model: nn.Module, example: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """The model up to each of its layers that has pixels, as far as these follow one another, and the whole model."""
    layers: dict[str, Callable[[Tensor], Tensor]] = {}
    modules = list(model) if isinstance(model, nn.Sequential) else []
    output = example
    stage = ""
    for index, (module, following) in enumerate(zip(modules, [*modules[1:], None], strict=True)):
        output = module(output)
        if output.dim() != 4:
            break
        if not isinstance(module, POINTWISE) or not stage:
            stage = f"{index} {type(module).__name__.lstrip('_')}"
        if not isinstance(following, POINTWISE):
            layers[stage] = nn.Sequential(*modules[: index + 1])
    layers["logits"] = model
    return layers


# ---- the report --------------------------------------------------------------------------------------------


def _title(report: dict[str, Any]) -> str:
    pictures = (
        "synthetic pictures"
        if report["data"] == "synthetic"
        else f"pictures from {Path(report['data']).resolve().name}"
    )
    return f"{report['model']}, backend {report['backend']}: {report['pictures']} {pictures}"


def _classifier_table(report: dict[str, Any]) -> Table:
    consistency: ShiftConsistency = report["consistency"]
    curve: ConsistencyCurve = report["curve"]
    table = Table(title=_title(report), show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("accuracy", f"{report['accuracy']:.1%}")
    error = "" if math.isnan(consistency.standard_error) else f" ± {consistency.standard_error:.1%}"
    table.add_row(f"shift-consistency up to {consistency.max_shift} px", f"{consistency.consistency:.1%}{error}")
    table.add_section()
    for distance, share in zip(curve.distances, curve.consistency, strict=True):
        if distance:
            table.add_row(f"same class after a move by {distance} px", f"{share:.1%}")
    return table


def _layer_table(report: dict[str, Any]) -> Table:
    title = f"equivariance error of {report['layer_pictures']} pictures shifted to the right, circularly"
    table = Table(title=title, title_justify="left")
    table.add_column("network up to", no_wrap=True)
    table.add_column("stride", justify="right")
    for by in SHIFTS:
        table.add_column(f"{by:g} px", justify="right")
    for name, result in report["layers"].items():
        stride = "" if result.stride is None else " x ".join(f"{s:g}" for s in dict.fromkeys(result.stride))
        table.add_row(name, stride, *(f"{error:.2g}" for error in result.errors))
    return table


def _write(report: dict[str, Any], out: Path) -> None:
    # matplotlib is slow to import, and not needed without --out.
    from ..equivariance.plots import DPI, summary

    layers: dict[str, EquivarianceErrors] = report["layers"]
    label = f"{report['model']}, border {report['border']}"
    figure = summary({label: report["curve"]}, layers, _title(report))
    with replacing(out / "equivariance.png") as file:
        figure.savefig(file, format="png", dpi=DPI)
    as_json = {
        **report,
        "consistency": _finite(asdict(report["consistency"])),
        "curve": asdict(report["curve"]),
        "layers": {name: asdict(result) for name, result in layers.items()},
    }
    with replacing(out / "equivariance.json") as file:
        file.write((json.dumps(as_json, indent=2) + "\n").encode())


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}
