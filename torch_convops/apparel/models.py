"""The classifiers: a fully connected network, a small CNN, and a residual one, with and without cures."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import Tensor, nn
from torch.nn import functional as F

from .data import IMAGE_SIZE, ApparelError
from .recipes import MODELS, Recipe

HIDDEN = 128
BACKENDS = {"convops": "torch_convops.nn", "torch": "torch.nn"}


def build_model(recipe: Recipe | str, num_classes: int, backend: str = "convops") -> nn.Sequential:
    """Build the network of a recipe, or of a model's name: float32 ``[N, 3, 128, 128]`` to logits ``[N, num_classes]``.

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
    if isinstance(recipe, str):
        recipe = MODELS[recipe]
    body, channels, size = {"ann": _ann, "cnn": _cnn, "resnet": _resnet}[recipe.network](recipe, layers)
    return nn.Sequential(*body, *_head(recipe, layers, channels, size, num_classes))


Body = tuple[list[nn.Module], int, int]  # and the channels and the side of what comes out


def _ann(recipe: Recipe, layers: ModuleType) -> Body:
    return [], 3, IMAGE_SIZE


def _cnn(recipe: Recipe, layers: ModuleType) -> Body:
    body = []
    pools = (layers.MaxPool2d, layers.MaxPool2d, layers.AvgPool2d)
    for channels, filters, pool in zip((3, 16, 32), (16, 32, 64), pools, strict=True):
        body += [*_convolution(recipe, layers, channels, filters), nn.ReLU(), pool(2)]
    return body, 64, IMAGE_SIZE // 8


def _resnet(recipe: Recipe, layers: ModuleType) -> Body:
    body = [*_convolution(recipe, layers, 3, 16), nn.ReLU(), layers.MaxPool2d(2), _Residual(recipe, layers, 16, 16)]
    for channels in (16, 32, 64):
        body += [layers.MaxPool2d(2), _Residual(recipe, layers, channels, 2 * channels)]
    return body, 128, IMAGE_SIZE // 16


def _head(recipe: Recipe, layers: ModuleType, channels: int, size: int, num_classes: int) -> list[nn.Module]:
    dropout = [nn.Dropout(recipe.dropout)] if recipe.dropout else []
    if recipe.global_pool:
        return [layers.AdaptiveAvgPool2d(1), nn.Flatten(), *dropout, nn.Linear(channels, num_classes)]
    hidden = nn.Linear(channels * size**2, HIDDEN)
    return [nn.Flatten(), hidden, nn.ReLU(), *dropout, nn.Linear(HIDDEN, num_classes)]


def _convolution(
    recipe: Recipe, layers: ModuleType, channels: int, filters: int, kernel_size: int = 3
) -> list[nn.Module]:
    # A bias before a normalisation would be subtracted again.
    bias = not recipe.batch_norm
    convolution = layers.Conv2d(channels, filters, kernel_size, padding=kernel_size // 2, bias=bias)
    return [convolution, nn.BatchNorm2d(filters)] if recipe.batch_norm else [convolution]


class _Residual(nn.Module):
    """``relu(shortcut(x) + conv(relu(conv(x))))`` (He et al. 2016); a 1x1 shortcut where the channels change."""

    def __init__(self, recipe: Recipe, layers: ModuleType, channels: int, filters: int) -> None:
        super().__init__()
        first, second = (_convolution(recipe, layers, size, filters) for size in (channels, filters))
        self.branch = nn.Sequential(*first, nn.ReLU(), *second)
        narrow = [] if channels == filters else _convolution(recipe, layers, channels, filters, kernel_size=1)
        self.shortcut = nn.Sequential(*narrow)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.branch(x))
