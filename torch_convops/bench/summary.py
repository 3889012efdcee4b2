"""Many measurements in few numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from .measure import Measurement


@dataclass(frozen=True)
class Summary:
    """Ratios (torch's time over ours) of one family, format and pass."""

    family: str
    format: str
    pass_: str
    rows: int
    geomean: float
    worst: float
    worst_row: str


def summarize(measurements: Iterable[Measurement]) -> list[Summary]:
    """One summary per operator family, memory format and pass; then those of all families together."""
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    measurements = list(measurements)
    for family_of in (lambda m: m.family, lambda _: "all"):
        for m in measurements:
            groups.setdefault((family_of(m), m.format, m.pass_), []).append(m)
    summaries = []
    for (family, format_, pass_), members in groups.items():
        worst = min(members, key=lambda m: m.ratio)
        geomean = statistics.geometric_mean(m.ratio for m in members)
        summaries.append(Summary(family, format_, pass_, len(members), geomean, worst.ratio, worst.row))
    return summaries
