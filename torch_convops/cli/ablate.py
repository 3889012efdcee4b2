"""``convops ablate``: each cure of over-fitting alone, and added to those before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..apparel.ablation import Outcome, configs, variants
from ..apparel.data import ApparelData, load_image_folder
from ..apparel.recipes import CURES, LONG
from ..apparel.synthetic import synthetic_data
from ..apparel.training import TrainConfig, keep_freed_memory, replacing, train
from . import _options
from ._tables import print_table
from .train import ConsoleReporter, make_progress


@click.command()
@_options.data
@click.option("--seed", "seeds", type=int, multiple=True, default=[0, 1, 2], show_default=True, help="Several.")
@click.option("--epochs", type=int, default=LONG.epochs, show_default=True, help="Of every run.")
@click.option("--batch-size", type=int, default=LONG.batch_size, show_default=True)
@_options.backend
@_options.device
@_options.threads
@_options.amp
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/ablation"),
    show_default=True,
    help="Where the runs go, each into a folder, and ablation.json, .md and .png.",
)
def command(seeds: tuple[int, ...], **settings: Any) -> None:
    """Measure what each cure of over-fitting does to the plain CNN, alone and added to those before it.

    All runs have the same pictures, epochs and batches. The study may be interrupted, or split over several
    processes by --seed: what is trained already is read, not trained again.
    """
    console = Console(highlight=False, markup=False)  # paths may have brackets
    keep_freed_memory()
    with _options.ending_in_a_line(console):
        outcomes, data = _study(TrainConfig(model="cnn", **settings), tuple(dict.fromkeys(seeds)), console)
    print_table(console, _table(outcomes, data))
    _write(outcomes, data, settings["out"])


def _study(config: TrainConfig, seeds: tuple[int, ...], console: Console) -> tuple[list[Outcome], ApparelData]:
    data = synthetic_data() if config.data is None else load_image_folder(config.data)
    outcomes = []
    for variant in variants():
        results = []
        for chosen in configs(variant, config, seeds):
            with make_progress(console) as progress:
                reporter = ConsoleReporter(progress, chosen.recipe.epochs, verbose=False)
                results.append(train(chosen, data, reporter))
        outcomes.append(Outcome(variant, tuple(results)))
        accuracies = ", ".join(f"{accuracy:.1%}" for accuracy in outcomes[-1].test_accuracies)
        console.print(f"{variant.name}: {accuracies}", soft_wrap=True)
    return outcomes, data


HEADINGS = ("cure", "parameters", "test accuracy (%)", "train - validation (%)", "epochs", "seconds")


def _cells(outcome: Outcome) -> tuple[str, ...]:
    epochs = [len(result.history) for result in outcome.results]
    return (
        outcome.variant.name,
        f"{outcome.results[0].parameters:,}",
        f"{100 * outcome.mean:.1f} ± {100 * outcome.spread:.1f}",
        f"{100 * outcome.gap:.1f}",
        f"{sum(epochs) / len(epochs):.0f}",
        f"{outcome.seconds:.0f}",
    )


def _title(outcomes: list[Outcome], data: ApparelData) -> str:
    seeds = len(outcomes[0].results)
    return f"{data.source}: {len(data.test)} test pictures, mean ± standard deviation of {seeds} seeds"


def _table(outcomes: list[Outcome], data: ApparelData) -> Table:
    table = Table(title=_title(outcomes, data))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "cure" else "right")
    for outcome in outcomes:
        table.add_row(*_cells(outcome), end_section=outcome.variant.name in ("plain", list(CURES)[-1]))
    return table


def _write(outcomes: list[Outcome], data: ApparelData, out: Path) -> None:
    # matplotlib is slow to import, and not needed before.
    from ..apparel.plots import DPI, ablation

    config = outcomes[0].results[0].config
    about = {
        "data": data.source,
        "test_pictures": len(data.test),
        "epochs": config.recipe.epochs,
        "batch_size": config.recipe.batch_size,
        "device": outcomes[0].results[0].device,
        "cures": {name: cure.summary for name, cure in CURES.items()},
        "outcomes": [outcome.as_json() for outcome in outcomes],
    }
    with replacing(out / "ablation.json") as file:
        file.write((json.dumps(about, indent=2) + "\n").encode())
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADINGS, *map(_cells, outcomes))]
    lines.insert(1, "|---" + "|---:" * (len(HEADINGS) - 1) + "|")
    with replacing(out / "ablation.md") as file:
        file.write("\n".join([_title(outcomes, data), "", *lines, ""]).encode())
    with replacing(out / "ablation.png") as file:
        ablation(about).savefig(file, format="png", dpi=DPI)
