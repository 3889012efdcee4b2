"""What each cure of over-fitting is worth: the plain CNN with one at a time, and with one more at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .recipes import CURES
from .training import TrainConfig, TrainResult


class Variant(NamedTuple):
    """A row of the study. ``plain``, each cure alone, then ``added`` to those before it."""

    name: str
    cures: tuple[str, ...]
    added: bool

    @property
    def folder(self) -> str:
        """Of its runs; what is the same network in both halves of the study is trained once."""
        return "-".join(str(list(CURES).index(cure)) for cure in self.cures) or "plain"


def variants() -> Iterator[Variant]:
    yield Variant("plain", (), False)
    names = tuple(CURES)
    for name in names:
        yield Variant(name, (name,), False)
    for count in range(1, len(names) + 1):
        yield Variant(f"+ {names[count - 1]}", names[:count], True)


@dataclass(frozen=True)
class Outcome:
    """The runs of a variant, one a seed."""

    variant: Variant
    results: tuple[TrainResult, ...]

    @property
    def test_accuracies(self) -> list[float]:
        return [result.test_accuracy for result in self.results]

    @property
    def mean(self) -> float:
        return statistics.mean(self.test_accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        return statistics.stdev(self.test_accuracies) if len(self.results) > 1 else 0.0

    @property
    def gap(self) -> float:
        """Training minus validation accuracy in the epoch kept, the mean over the seeds: the over-fitting."""
        kept = [result.history[result.kept_epoch - 1] for result in self.results]
        return statistics.mean(record.train_accuracy - record.val_accuracy for record in kept)

    @property
    def seconds(self) -> float:
        return statistics.mean(result.seconds for result in self.results)

    def as_json(self) -> dict[str, Any]:
        first = self.results[0]
        return {
            "name": self.variant.name,
            "cures": list(self.variant.cures),
            "added": self.variant.added,
            "parameters": first.parameters,
            "seeds": [result.config.seed for result in self.results],
            "test_accuracy": self.test_accuracies,
            "mean": self.mean,
            "spread": self.spread,
            "gap": self.gap,
            "epochs": [len(result.history) for result in self.results],
            "seconds": self.seconds,
        }


def configs(variant: Variant, config: TrainConfig, seeds: tuple[int, ...]) -> list[TrainConfig]:
    """The runs of a variant: ``config`` with its cures, a seed and a folder of its own."""
    assert config.out is not None
    chosen = replace(config, cures=variant.cures)
    return [replace(chosen, seed=seed, out=config.out / variant.folder / f"seed-{seed}") for seed in seeds]
