"""Tables that are printed whole: a number cut short is worse than a wrapped line."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

ANY_WIDTH = 1000


def make_console() -> Console:
    """For text that may have brackets in it, and numbers that mean nothing to a highlighter."""
    return Console(highlight=False, markup=False)


def print_table(console: Console, table: Table) -> None:
    """Prints a table at its own width, also where the terminal is narrower or there is none."""
    needed = Measurement.get(console, console.options.update(max_width=ANY_WIDTH), table).maximum
    console.width = max(console.width, needed)
    console.print(table)
