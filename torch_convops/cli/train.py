"""``convops train``: train the apparel classifiers and compare them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..apparel import distributed
from ..apparel.data import ApparelData
from ..apparel.recipes import CURES, MODELS
from ..apparel.training import EpochRecord, TrainConfig, TrainResult, best_epoch, keep_freed_memory, train
from . import _options
from ._tables import print_table


@click.command()
@_options.data
@click.option(
    "--model",
    "models",
    type=click.Choice(list(MODELS)),
    multiple=True,
    default=["cnn"],
    show_default=True,
    help="Give it several times to train several models, each into its own folder OUT/MODEL.",
)
@click.option(
    "--cure",
    "cures",
    type=click.Choice(list(CURES)),
    multiple=True,
    help="Change the model's recipe by a remedy against over-fitting; may be given several times.",
)
@click.option("--epochs", type=int, help="At most so many.  [default: the recipe's]")
@click.option("--batch-size", type=int, help="Pictures a step.  [default: the recipe's]")
@click.option("--lr", type=float, help="Learning rate, the highest of the schedule.  [default: the recipe's]")
@click.option(
    "--patience",
    type=int,
    help="Stop after so many epochs without a better validation accuracy, and keep the best weights.  "
    "[default: the recipe's]",
)
@click.option("--seed", type=int, default=TrainConfig.seed, show_default=True, help="Of all that is drawn.")
@_options.backend
@_options.device
@_options.threads
@_options.amp
@click.option("--compile", is_flag=True, help="torch.compile the training step.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/apparel"),
    show_default=True,
    help="Where checkpoint, weights, metrics and figures go.",
)
@click.option("--fresh", is_flag=True, help="Start again even if OUT has a checkpoint.")
def command(models: tuple[str, ...], **settings: Any) -> None:
    """Train the apparel classifiers: a fully connected network (ann), a plain CNN (cnn), and the CNN with every
    cure of its over-fitting (cnn-tuned).

    Writes checkpoint.pt, weights.pt, metrics.json and three figures into OUT, and prints a table of the models
    at the end. The weights kept, and tested, are those of the last epoch; with early stopping those of the best
    validation accuracy.

    Two runs with the same arguments give the same history and weights, bit for bit. A run that was interrupted
    goes on from its last complete epoch when the same command is given again, and ends as if it had never
    stopped. Under torchrun each process takes its share of every batch.
    """
    # Paths may have brackets; of several processes the first speaks.
    console = Console(highlight=False, markup=False, quiet=distributed.rank() != 0)
    keep_freed_memory()
    with _options.ending_in_a_line(console):
        results = _train_all(models, TrainConfig(**settings), console)
    if distributed.rank() == 0:
        print_table(console, _comparison(results))


def _train_all(models: tuple[str, ...], config: TrainConfig, console: Console) -> list[TrainResult]:
    # matplotlib is slow to import, and not needed to say what is wrong with an argument.
    from ..apparel.plots import save_figures

    assert config.out is not None
    results: list[TrainResult] = []
    for model in dict.fromkeys(models):
        out = config.out / model if len(set(models)) > 1 else config.out
        chosen = replace(config, model=model, out=out)
        headline = f"{chosen.name}, backend {config.backend}, seed {config.seed}, into {out}"
        console.print(headline, style="bold", soft_wrap=True)
        data = results[0].data if results else None
        with make_progress(console) as progress:
            reporter = ConsoleReporter(progress, chosen.recipe.epochs)
            results.append(train(chosen, data, reporter))
        if distributed.rank() == 0:
            save_figures(results[-1], out)
    return results


def make_progress(console: Console) -> Progress:
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches, loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class ConsoleReporter:
    """A progress bar for the epoch that runs and, if verbose, a line for each that is done."""

    def __init__(self, progress: Progress, epochs: int, verbose: bool = True) -> None:
        self.progress = progress
        self.epochs = epochs
        self.verbose = verbose

    def started(self, data: ApparelData, history: list[EpochRecord]) -> None:
        sizes = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
        self._print(f"{data.source} pictures of {len(data.classes)} classes: {sizes}")
        if history:
            self._print(f"after epoch {len(history)}, from the checkpoint")

    def epoch_started(self, epoch: int, batches: int) -> None:
        label = f"{epoch}/{self.epochs}"
        self.task = self.progress.add_task("", total=batches, epoch=label, loss=math.nan)

    def batch_done(self, loss: float) -> None:
        self.progress.update(self.task, advance=1, loss=loss)

    def epoch_done(self, history: list[EpochRecord]) -> None:
        self.progress.remove_task(self.task)
        epoch, last = len(history), history[-1]
        self._print(
            f"epoch {epoch:2}/{self.epochs}  loss {last.train_loss:.3f}  validation loss {last.val_loss:.3f},"
            f" accuracy {last.val_accuracy:.1%}  {last.seconds:.1f} s"
            f"{'  best' if best_epoch(history) == epoch else ''}"
        )

    def _print(self, line: str) -> None:
        if self.verbose:
            self.progress.console.print(f"  {line}", soft_wrap=True)


def _comparison(results: list[TrainResult]) -> Table:
    data = results[0].data
    table = Table(title=f"{data.source}: {len(data.test)} test pictures of {len(data.classes)} classes")
    table.add_column("model")
    table.add_column("backend")
    for heading in ("parameters", "epochs", "test accuracy", "seconds", "of them data"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            result.config.name,
            result.config.backend,
            f"{result.parameters:,}",
            f"{len(result.history)}",
            f"{result.test_accuracy:.1%}",
            f"{result.seconds:.1f}",
            f"{result.data_share:.1%}",
        )
    return table
