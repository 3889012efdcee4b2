"""``convops predict``: what a trained classifier says of photographs."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from ..apparel.data import ApparelError
from ..apparel.trained import load_classifier
from ..apparel.training import resolve_device
from . import _options


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=Path("runs/apparel"),
    show_default=True,
    help="The OUT of `convops train`, or the weights.pt in it.",
)
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Print so many classes.")
@_options.backend
@_options.device
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture instead.")
def command(images: tuple[Path, ...], weights: Path, top: int, backend: str, device: str, as_json: bool) -> None:
    """Print the most probable classes of photographs of any size and format.

    A file that is no picture is named, the others are still answered, and the exit status is 1.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)  # paths may have brackets
    try:
        classifier = load_classifier(weights, resolve_device(device), backend)
    except ApparelError as error:
        raise click.ClickException(str(error)) from error
    failed = False
    for path in images:
        try:
            values, indices = classifier.probabilities([path])[0].topk(min(top, len(classifier.classes)))
        except ApparelError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
            continue
        ranking = [(classifier.classes[i], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]
        if as_json:
            click.echo(json.dumps({"image": str(path), "classes": dict(ranking)}))
        else:
            console.print(f"{path}: " + ", ".join(f"{name} {value:.1%}" for name, value in ranking))
    if failed:
        raise click.exceptions.Exit(1)
