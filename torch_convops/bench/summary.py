"""Many measurements in few numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Rated(Protocol):
    """What a summary reads of a measurement, be it of a row or of a model."""

    @property
    def row(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def pass_(self) -> str: ...
    @property
    def ratio(self) -> float: ...
    @property
    def compile_ratio(self) -> float | None: ...


@dataclass(frozen=True)
class Summary:
    """Ratios (torch's time over ours) of one family, format and pass; compile_geomean is of ``torch.compile``'s, over
    the rows that have one."""

    family: str
    format: str
    pass_: str
    rows: int
    geomean: float
    worst: float
    worst_row: str
    compile_geomean: float | None = None


def summarize(measurements: Iterable[Rated]) -> list[Summary]:
    """One summary per family, memory format and pass; then those of all families together."""
    groups: dict[tuple[str, str, str], list[Rated]] = {}
    measurements = list(measurements)
    for family_of in (lambda m: m.family, lambda _: "all"):
        for m in measurements:
            groups.setdefault((family_of(m), m.format, m.pass_), []).append(m)
    summaries = []
    for (family, format_, pass_), members in groups.items():
        worst = min(members, key=lambda m: m.ratio)
        geomean = statistics.geometric_mean(m.ratio for m in members)
        compiled = [m.compile_ratio for m in members if m.compile_ratio is not None]
        compile_geomean = statistics.geometric_mean(compiled) if compiled else None
        summaries.append(
            Summary(family, format_, pass_, len(members), geomean, worst.ratio, worst.row, compile_geomean)
        )
    return summaries
