"""The apparel case study: what a plain CNN gains over a fully connected network on pictures of clothes."""

from .data import ApparelData, ApparelError, Split, load_image_folder
from .models import build_model
from .recipes import CURES, MODELS, Recipe
from .synthetic import synthetic_data
from .trained import Classifier, load_classifier
from .training import EpochRecord, Reporter, TrainConfig, TrainResult, keep_freed_memory, train

__all__ = [
    "CURES",
    "MODELS",
    "ApparelData",
    "ApparelError",
    "Classifier",
    "EpochRecord",
    "Recipe",
    "Reporter",
    "Split",
    "TrainConfig",
    "TrainResult",
    "build_model",
    "keep_freed_memory",
    "load_classifier",
    "load_image_folder",
    "synthetic_data",
    "train",
]
