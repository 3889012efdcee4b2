"""Recipes: what a network is made of and how it is trained. The plain ones over-fit; each cure changes one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .data import ApparelError

NETWORKS = ("ann", "cnn", "resnet")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "one-cycle")


@dataclass(frozen=True)
class Recipe:
    """A network and its training. The defaults are the plain CNN.

    Attributes:
        network: ``"ann"``, ``"cnn"`` or ``"resnet"``, see :mod:`.models`.
        batch_norm: normalise behind each convolution (Ioffe and Szegedy 2015).
        dropout: probability of zeroing a feature before the last layer (Srivastava et al. 2014).
        global_pool: the mean of each feature map in place of all its pixels and a hidden layer (Lin et al. 2014).
        augment: change the training pictures at random, see :mod:`.augmentation`.
        optimizer: ``"adam"``, or ``"adamw"``, whose weight decay is apart from the gradient (Loshchilov and Hutter
            2019).
        weight_decay: of weights; biases and norms have none.
        schedule: ``"constant"``, or ``"one-cycle"``: up to ``lr`` and down to nothing (Smith 2018).
        lr: learning rate, the highest of the schedule.
        batch_size: pictures a step.
        epochs: the most passes over the training pictures.
        patience: epochs without a better validation accuracy after which training stops; the weights of the best
            epoch are kept. None trains all epochs and keeps the last weights.

    Raises:
        ApparelError: a value is out of range.
    """

    network: str = "cnn"
    batch_norm: bool = False
    dropout: float = 0.0
    global_pool: bool = False
    augment: bool = False
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "constant"
    lr: float = 5e-4
    batch_size: int = 32
    epochs: int = 10
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("network", NETWORKS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if (value := getattr(self, name)) not in choices:
                raise ApparelError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in ("epochs", "batch_size", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ApparelError(f"{name} must be at least 1, got {value}")
        if not 0 < self.lr < float("inf"):
            raise ApparelError(f"lr must be a positive number, got {self.lr}")
        if not 0 <= self.dropout < 1:
            raise ApparelError(f"dropout must be at least 0 and less than 1, got {self.dropout}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ApparelError(f"weight_decay must not be negative, got {self.weight_decay}")


class Cure(NamedTuple):
    """One remedy against over-fitting: what it is, and the fields of a recipe that it sets."""

    summary: str
    changes: dict[str, Any]

    def apply(self, recipe: Recipe) -> Recipe:
        return replace(recipe, **self.changes)


# In the order in which they are added up.
CURES = {
    "early-stopping": Cure("keep the weights of the best epoch on the validation pictures", {"patience": 15}),
    "dropout": Cure("zero half of the features before the last layer", {"dropout": 0.5}),
    "batch-norm": Cure("normalise behind each convolution", {"batch_norm": True}),
    "optimizer": Cure("AdamW: weight decay apart from the gradient", {"optimizer": "adamw", "weight_decay": 0.05}),
    "schedule": Cure("learning rate up to 2e-3 and down to nothing", {"schedule": "one-cycle", "lr": 2e-3}),
    "global-pooling": Cure("the mean of each feature map in place of a hidden layer", {"global_pool": True}),
    "augmentation": Cure("flips, crops, colours, erased patches, mixed pictures", {"augment": True}),
    "residual": Cure("nine convolutions with shortcuts in place of three", {"network": "resnet"}),
}


def cured(recipe: Recipe, names: tuple[str, ...]) -> Recipe:
    """``recipe`` changed by each of the cures in turn.

    Raises:
        ApparelError: there is no cure of that name.
    """
    for name in names:
        if name not in CURES:
            raise ApparelError(f"cures must be of {', '.join(CURES)}, got {name!r}")
        recipe = CURES[name].apply(recipe)
    return recipe


def full_name(model: str, cures: Iterable[str]) -> str:
    """A model and its cures: ``"cnn + dropout"``."""
    return " + ".join((model, *cures))


# What the cures are measured with: long enough to over-fit without them.
LONG = Recipe(epochs=40, batch_size=64)

MODELS = {
    "ann": Recipe(network="ann"),
    "cnn": Recipe(),
    # All of them at once take time, and with half of its features zeroed a network of 0.3 M parameters under-fits.
    "cnn-tuned": replace(cured(LONG, tuple(CURES)), epochs=60, patience=25, dropout=0.2),
}
