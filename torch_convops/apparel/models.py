"""The two plain classifiers: a fully connected network and a small CNN, without any regularisation."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

from torch import nn

from .data import IMAGE_SIZE, ApparelError

HIDDEN = 128
BACKENDS = {"convops": "torch_convops.nn", "torch": "torch.nn"}


def _ann(num_classes: int, layers: ModuleType) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * IMAGE_SIZE**2, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_classes),
    )


def _cnn(num_classes: int, layers: ModuleType) -> nn.Sequential:
    return nn.Sequential(
        layers.Conv2d(3, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        layers.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (IMAGE_SIZE // 8) ** 2, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_classes),
    )


MODELS: dict[str, Callable[[int, ModuleType], nn.Sequential]] = {"ann": _ann, "cnn": _cnn}


def build_model(name: str, num_classes: int, backend: str = "convops") -> nn.Sequential:
    """Build ``"ann"`` or ``"cnn"``: float32 ``[N, 3, 128, 128]`` to logits ``[N, num_classes]``.

    Args:
        backend: whose convolution and pooling layers to use, ``"convops"`` or ``"torch"``. Both draw the same
            initial weights from torch's global generator, and their state dicts are interchangeable.

    Raises:
        ApparelError: the layers of ``backend`` cannot be imported.
    """
    try:
        layers = importlib.import_module(BACKENDS[backend])
    except (ImportError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ApparelError(f"the backend {backend!r} cannot be loaded ({reason})") from error
    return MODELS[name](num_classes, layers)
