"""What the commands of the case study have in common: their options, and how they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from ..apparel.data import ApparelError
from ..apparel.models import BACKENDS
from ..apparel.training import TrainConfig

INTERRUPTED = 130  # the shell's code for a process ended by Ctrl-C

data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Directory train|validation|test/<class>/<picture>.  [default: synthetic pictures]",
)
backend = click.option(
    "--backend",
    type=click.Choice(list(BACKENDS)),
    default=TrainConfig.backend,
    show_default=True,
    help="Whose convolution and pooling layers to use.",
)
device = click.option(
    "--device",
    default=TrainConfig.device,
    show_default=True,
    help="cpu, cuda, cuda:1, ...; auto is cuda where there is one.",
)
threads = click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]")
amp = click.option("--amp", is_flag=True, help="Compute in bfloat16; weights stay float32.")


@contextmanager
def ending_in_a_line(console: Console) -> Iterator[None]:
    """What a user can put right, and Ctrl-C, end a training command with one line."""
    try:
        yield
    except (ApparelError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on after the last complete epoch")
        raise click.exceptions.Exit(INTERRUPTED) from None
