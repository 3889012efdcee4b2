"""Train an apparel classifier: early stopping, best weights, exact resumption, exact reproduction."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from .. import __version__
from .data import ApparelData, ApparelError, Split, load_image_folder
from .models import BACKENDS, MODELS, build_model
from .synthetic import synthetic_data

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.pt"
METRICS = "metrics.json"

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class TrainConfig:
    """What to train, and how.

    Attributes:
        model: ``"ann"`` or ``"cnn"``.
        data: a directory ``train|validation|test/<class>/*``; :func:`synthetic_data` if None.
        epochs: the most passes over the training pictures.
        batch_size: pictures per step of the optimizer, Adam.
        lr: learning rate.
        patience: epochs without a better validation accuracy after which training stops.
        seed: draws the initial weights and the batches.
        backend: whose convolution and pooling, ``"convops"`` or ``"torch"``.
        device: a torch device, or ``"auto"`` for CUDA where there is one and the CPU elsewhere.
        threads: CPU threads; torch's own choice if None.
        out: where checkpoint, weights and metrics are written; nothing is written if None.
        fresh: ignore a checkpoint in ``out`` instead of continuing from it.

    Raises:
        ApparelError: an argument is out of range.
    """

    model: str = "cnn"
    data: Path | None = None
    epochs: int = 10
    batch_size: int = 32
    lr: float = 5e-4
    patience: int = 5
    seed: int = 0
    backend: str = "convops"
    device: str = "auto"
    threads: int | None = None
    out: Path | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("model", MODELS), ("backend", BACKENDS)):
            value = getattr(self, name)
            if value not in choices:
                raise ApparelError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in ("epochs", "batch_size", "patience", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ApparelError(f"{name} must be at least 1, got {value}")
        if not 0 < self.lr < float("inf"):
            raise ApparelError(f"lr must be a positive number, got {self.lr}")
        if not 0 <= self.seed < 2**63:
            raise ApparelError(f"seed must be in 0..2**63-1, got {self.seed}")


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history. Losses are mean cross entropies in nats, accuracies fractions.

    ``train_*`` are means over the batches as they were trained on, ``val_*`` are measured after the epoch.
    """

    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


class Reporter(Protocol):
    """Hears how training goes; the methods are called in the order of a run."""

    def started(self, data: ApparelData, history: list[EpochRecord]) -> None:
        """Training on ``data`` begins after the epochs in ``history``, which come from a checkpoint."""

    def epoch_started(self, epoch: int, batches: int) -> None:
        """``epoch`` counts from 1."""

    def batch_done(self, loss: float) -> None: ...

    def epoch_done(self, history: list[EpochRecord]) -> None: ...


class _Silent:
    """The reporter that says nothing."""

    def started(self, data: ApparelData, history: list[EpochRecord]) -> None: ...

    def epoch_started(self, epoch: int, batches: int) -> None: ...

    def batch_done(self, loss: float) -> None: ...

    def epoch_done(self, history: list[EpochRecord]) -> None: ...


SILENT = _Silent()


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        model: with the weights of the epoch of best validation accuracy, in evaluation mode, on its device.
        history: one record an epoch.
        probabilities: of the test pictures, float32 ``[N, classes]`` on the CPU.
    """

    config: TrainConfig
    data: ApparelData
    model: nn.Module
    history: tuple[EpochRecord, ...]
    probabilities: Tensor

    @property
    def best_epoch(self) -> int:
        """The first epoch, from 1, of the best validation accuracy."""
        return best_epoch(self.history)

    @property
    def best_val_accuracy(self) -> float:
        return self.history[self.best_epoch - 1].val_accuracy

    @property
    def stopped_early(self) -> bool:
        """Whether patience ran out before ``config.epochs``."""
        return len(self.history) < self.config.epochs

    @property
    def test_accuracy(self) -> float:
        return _accuracy(self.probabilities, self.data.test.labels)

    @property
    def confusion(self) -> Tensor:
        """int64 ``[classes, classes]``: test pictures by true class (row) and predicted class (column)."""
        classes = len(self.data.classes)
        cells = self.data.test.labels * classes + self.probabilities.argmax(1)
        return cells.bincount(minlength=classes**2).view(classes, classes)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.history)

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds; everything but the times and versions is reproducible."""
        config = self.config
        return {
            "model": config.model,
            "backend": config.backend,
            "data": self.data.source,
            "synthetic": self.data.directory is None,
            "data_sha256": self.data.digest,
            "split_sizes": {name: len(split) for name, split in self.data.splits.items()},
            "classes": list(self.data.classes),
            "parameters": self.parameters,
            "seed": config.seed,
            "batch_size": config.batch_size,
            "lr": config.lr,
            "patience": config.patience,
            "threads": config.threads,
            "max_epochs": config.epochs,
            "epochs": len(self.history),
            "stopped_early": self.stopped_early,
            "best_epoch": self.best_epoch,
            "best_val_accuracy": self.best_val_accuracy,
            "test_accuracy": self.test_accuracy,
            "confusion_matrix": self.confusion.tolist(),
            "history": [{"epoch": epoch, **asdict(record)} for epoch, record in enumerate(self.history, 1)],
            "seconds": self.seconds,
            "device": str(next(self.model.parameters()).device),
            "versions": _versions(),
        }


def best_epoch(history: list[EpochRecord] | tuple[EpochRecord, ...]) -> int:
    """The first epoch, from 1, of the best validation accuracy."""
    return max(range(len(history)), key=lambda index: history[index].val_accuracy) + 1


def train(config: TrainConfig, data: ApparelData | None = None, reporter: Reporter = SILENT) -> TrainResult:
    """Train as ``config`` says, on ``data`` in place of ``config.data`` if given.

    With ``config.out``, writes ``checkpoint.pt`` there after each epoch, and ``weights.pt`` (the state dict
    of the best epoch, on the CPU) and ``metrics.json`` at the end. A run that finds its own checkpoint
    continues from it and ends with the same weights and history, bit for bit and but for the times, as one
    that was never interrupted; more ``epochs`` than at first continue a finished run. Torch's global
    generator, thread count and determinism settings are left as they were.

    Raises:
        ApparelError: the data, the device or ``out`` cannot be used, the checkpoint in ``out`` belongs to
            other settings, or the loss is no longer finite.
    """
    device = resolve_device(config.device)
    if config.out is not None:
        _make_writable(config.out)
    if data is None:
        data = synthetic_data() if config.data is None else load_image_folder(config.data)
    with _reproducible(device, config.threads):
        run = _Run(config, data, device)
        path = None if config.out is None else config.out / CHECKPOINT
        if path is not None and path.exists() and not config.fresh:
            run.load(path)
        reporter.started(data, run.history)
        while not run.finished:
            run.train_epoch(reporter)
            if path is not None:
                run.save(path)
        result = run.result()
    if config.out is not None:
        save_result(result, config.out)
    return result


def save_result(result: TrainResult, out: Path) -> None:
    """Write ``weights.pt`` and ``metrics.json``."""
    with replacing(out / WEIGHTS) as file:
        torch.save(_copy_weights(result.model), file)
    with replacing(out / METRICS) as file:
        file.write((json.dumps(result.metrics(), indent=2) + "\n").encode())


def resolve_device(name: str) -> torch.device:
    """The device called ``name``, checked to work here.

    Raises:
        ApparelError: it does not.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ApparelError(f"the device {name!r} cannot be used here ({reason})") from error
    return device


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` once it is complete: no reader meets half of one."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        yield file
    os.replace(temporary, path)


class _Run:
    """Everything that changes from epoch to epoch, and its checkpoint."""

    def __init__(self, config: TrainConfig, data: ApparelData, device: torch.device) -> None:
        self.config = config
        self.data = data
        self.device = device
        # Initial weights are drawn on the CPU, so that they do not depend on the device.
        torch.default_generator.manual_seed(config.seed)
        self.model = build_model(config.model, len(data.classes), config.backend).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr)
        self.shuffling = torch.Generator().manual_seed(config.seed)
        self.history: list[EpochRecord] = []
        self.best_weights: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        epochs = len(self.history)
        stalled = epochs > 0 and epochs - best_epoch(self.history) >= self.config.patience
        return stalled or epochs >= self.config.epochs

    def train_epoch(self, reporter: Reporter) -> None:
        start = time.perf_counter()
        epoch, split = len(self.history) + 1, self.data.train
        reporter.epoch_started(epoch, -(-len(split) // self.config.batch_size))
        loss_sum, correct = 0.0, 0
        self.model.train()
        for pixels, labels in split.batches(self.config.batch_size, self.device, self.shuffling):
            logits = self.model(pixels)
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise ApparelError(f"the loss is {value} in epoch {epoch}; try an lr below {self.config.lr}")
            loss_sum += value * len(labels)
            correct += int((logits.argmax(1) == labels).sum())
            reporter.batch_done(value)
        logits = _predict(self.model, self.data.validation, self.device)
        record = EpochRecord(
            train_loss=loss_sum / len(split),
            train_accuracy=correct / len(split),
            val_loss=F.cross_entropy(logits, self.data.validation.labels).item(),
            val_accuracy=_accuracy(logits, self.data.validation.labels),
            seconds=time.perf_counter() - start,
        )
        self.history.append(record)
        if best_epoch(self.history) == epoch:
            self.best_weights = _copy_weights(self.model)
        reporter.epoch_done(self.history)

    def result(self) -> TrainResult:
        self.model.load_state_dict(self.best_weights)
        probabilities = _predict(self.model, self.data.test, self.device).softmax(1)
        return TrainResult(self.config, self.data, self.model, tuple(self.history), probabilities)

    def _settings(self) -> dict[str, Any]:
        """What decides every number of the run; only how long it lasts may change on resumption."""
        names = ("model", "backend", "seed", "batch_size", "lr", "patience", "threads")
        settings = {name: getattr(self.config, name) for name in names}
        return settings | {"device": str(self.device), "data": self.data.digest}

    def save(self, path: Path) -> None:
        state = {
            "settings": self._settings(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "shuffling": self.shuffling.get_state(),
            "history": [asdict(record) for record in self.history],
            "best_weights": self.best_weights,
        }
        with replacing(path) as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        remedy = "use --fresh to start again, or another --out"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            settings, history = state["settings"], [EpochRecord(**record) for record in state["history"]]
        except Exception as error:  # a damaged file fails in many ways
            raise ApparelError(f"{path} is not a readable checkpoint; {remedy}") from error
        for name, value in self._settings().items():
            if settings.get(name) != value:
                detail = "" if name == "data" else f" ({settings.get(name)}, now {value})"
                raise ApparelError(f"{path} belongs to a run with a different {name}{detail}; {remedy}")
        if len(history) > self.config.epochs:
            raise ApparelError(f"{path} is past epoch {self.config.epochs}, at {len(history)}; {remedy}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffling.set_state(state["shuffling"])
        self.history = history
        self.best_weights = state["best_weights"]


@torch.no_grad()
def _predict(model: nn.Module, split: Split, device: torch.device) -> Tensor:
    """Logits, float32 ``[N, classes]`` on the CPU; leaves the model in evaluation mode."""
    model.eval()
    return torch.cat([model(pixels).cpu() for pixels, _ in split.batches(EVALUATION_BATCH, device)])


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return int((scores.argmax(1) == labels).sum()) / len(labels)


def _copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ApparelError(f"cannot write into {out}: {error.strerror}") from error


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "torch_convops": __version__,
    }


@contextmanager
def _reproducible(device: torch.device, threads: int | None) -> Iterator[None]:
    """Ask torch for deterministic algorithms and ``threads`` CPU threads, with a generator of its own."""
    filling: Any = torch.utils.deterministic  # its attribute is not in the type hints
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )
    if device.type == "cuda":
        # cuBLAS is deterministic only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        with torch.random.fork_rng(devices=[]):
            # Some of torch's pooling kernels are not declared deterministic: warn, go on.
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Filling fresh memory costs time and changes no result.
            filling.fill_uninitialized_memory = False
            torch.backends.cudnn.benchmark = False
            torch.set_num_threads(threads or before[4])
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = before[2]
        torch.backends.cudnn.benchmark = before[3]
        torch.set_num_threads(before[4])
        if before[5] is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
