"""A classifier that was trained before: its weights, and the metrics beside them that say what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import ApparelError, normalize, read_picture
from .models import build_model
from .recipes import Recipe, full_name
from .training import METRICS, WEIGHTS


@dataclass(frozen=True)
class Classifier:
    """A trained network in evaluation mode, the name of its model, and the classes that its logits stand for."""

    model: nn.Module
    name: str
    classes: tuple[str, ...]

    @torch.no_grad()
    def probabilities(self, pictures: list[str | Path]) -> Tensor:
        """float32 ``[len(pictures), classes]`` of picture files of any size and format.

        Raises:
            ApparelError: a file is no picture, or cannot be read.
        """
        device = next(self.model.parameters()).device
        images = torch.stack([read_picture(path) for path in pictures])
        logits: Tensor = self.model(normalize(images).to(device))
        return logits.softmax(1).cpu()


def load_classifier(path: str | Path, device: torch.device | str = "cpu", backend: str = "convops") -> Classifier:
    """The classifier that ``convops train`` wrote.

    Args:
        path: the folder, or the ``weights.pt`` in it; ``metrics.json`` lies beside the weights.

    Raises:
        ApparelError: a file is missing, damaged, or of another network.
    """
    weights = Path(path)
    if weights.is_dir():
        weights = weights / WEIGHTS
    metrics = weights.with_name(METRICS)
    for file in (weights, metrics):
        if not file.is_file():
            raise ApparelError(f"no such file: {file}; `convops train` writes {WEIGHTS} and {METRICS} into one folder")
    try:
        about = json.loads(metrics.read_text())
        name, recipe, classes = full_name(about["model"], about["cures"]), about["recipe"], tuple(about["classes"])
        model = build_model(Recipe(**recipe), len(classes), backend)
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except ApparelError:
        raise
    except Exception as error:  # damaged files fail in many ways
        raise ApparelError(f"{weights} and {metrics.name} are not a classifier written by `convops train`") from error
    return Classifier(model.to(device).eval(), name, classes)
