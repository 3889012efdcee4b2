"""Train an apparel classifier by a recipe: exact resumption, exact reproduction, one process or several."""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from .. import __version__
from . import distributed
from .augmentation import Augmentation
from .data import ApparelData, ApparelError, Split, load_image_folder
from .models import BACKENDS, build_model
from .recipes import MODELS, Recipe, cured, full_name
from .synthetic import synthetic_data

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.pt"
METRICS = "metrics.json"

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class TrainConfig:
    """What to train, and how.

    Attributes:
        model: a name of :data:`.recipes.MODELS`, whose recipe is followed.
        cures: names of :data:`.recipes.CURES`, which change it.
        data: a directory ``train|validation|test/<class>/*``; :func:`synthetic_data` if None.
        epochs, batch_size, lr, patience: in place of the recipe's, if not None.
        seed: draws the initial weights, the batches and their augmentation, and the dropout.
        backend: whose convolution and pooling, ``"convops"`` or ``"torch"``.
        device: a torch device, or ``"auto"`` for CUDA where there is one and the CPU elsewhere.
        threads: CPU threads; torch's own choice if None.
        amp: compute in bfloat16 where autocast allows it; the weights stay float32.
        compile: compile the training step's forward and backward passes.
        out: where checkpoint, weights and metrics are written; nothing is written if None.
        fresh: ignore a checkpoint in ``out`` instead of continuing from it.

    Raises:
        ApparelError: an argument is out of range.
    """

    model: str = "cnn"
    cures: tuple[str, ...] = ()
    data: Path | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    patience: int | None = None
    seed: int = 0
    backend: str = "convops"
    device: str = "auto"
    threads: int | None = None
    amp: bool = False
    compile: bool = False
    out: Path | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("model", MODELS), ("backend", BACKENDS)):
            value = getattr(self, name)
            if value not in choices:
                raise ApparelError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.threads is not None and self.threads < 1:
            raise ApparelError(f"threads must be at least 1, got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise ApparelError(f"seed must be in 0..2**63-1, got {self.seed}")
        _ = self.recipe  # raises where a value is out of range

    @cached_property
    def recipe(self) -> Recipe:
        """The model's recipe with the cures and the values given."""
        names = ("epochs", "batch_size", "lr", "patience")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(cured(MODELS[self.model], self.cures), **given)

    @property
    def name(self) -> str:
        """The model and its cures: ``"cnn + dropout"``."""
        return full_name(self.model, self.cures)


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history. Losses are mean cross entropies in nats, accuracies fractions.

    ``train_*`` are means over the batches as they were trained on, ``val_*`` are measured after the epoch. Of the
    ``seconds``, ``data_seconds`` went into making the batches.
    """

    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    data_seconds: float


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
        model: with the weights of :attr:`kept_epoch`, in evaluation mode, on its device.
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
    def kept_epoch(self) -> int:
        """The epoch of the weights kept: the best with early stopping, else the last."""
        return len(self.history) if self.config.recipe.patience is None else self.best_epoch

    @property
    def best_val_accuracy(self) -> float:
        return self.history[self.best_epoch - 1].val_accuracy

    @property
    def stopped_early(self) -> bool:
        """Whether patience ran out before ``config.epochs``."""
        return len(self.history) < self.config.recipe.epochs

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
    def device(self) -> str:
        return str(next(self.model.parameters()).device)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.history)

    @property
    def data_share(self) -> float:
        """Of the training time, the part that went into making the batches."""
        return sum(record.data_seconds for record in self.history) / self.seconds

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds; everything but the times and versions is reproducible."""
        config = self.config
        return {
            "model": config.model,
            "cures": list(config.cures),
            "recipe": asdict(config.recipe),
            "backend": config.backend,
            "data": self.data.source,
            "synthetic": self.data.directory is None,
            "data_sha256": self.data.digest,
            "split_sizes": {name: len(split) for name, split in self.data.splits.items()},
            "classes": list(self.data.classes),
            "parameters": self.parameters,
            "seed": config.seed,
            "threads": config.threads,
            "amp": config.amp,
            "compile": config.compile,
            "processes": distributed.world_size(),
            "epochs": len(self.history),
            "stopped_early": self.stopped_early,
            "best_epoch": self.best_epoch,
            "kept_epoch": self.kept_epoch,
            "best_val_accuracy": self.best_val_accuracy,
            "test_accuracy": self.test_accuracy,
            "confusion_matrix": self.confusion.tolist(),
            "history": [{"epoch": epoch, **asdict(record)} for epoch, record in enumerate(self.history, 1)],
            "seconds": self.seconds,
            "data_share": self.data_share,
            "device": self.device,
            "versions": _versions(),
        }


def best_epoch(history: list[EpochRecord] | tuple[EpochRecord, ...]) -> int:
    """The first epoch, from 1, of the best validation accuracy."""
    return max(range(len(history)), key=lambda index: history[index].val_accuracy) + 1


def train(config: TrainConfig, data: ApparelData | None = None, reporter: Reporter = SILENT) -> TrainResult:
    """Train as ``config`` says, on ``data`` in place of ``config.data`` if given.

    With ``config.out``, writes ``checkpoint.pt`` there after each epoch, and ``weights.pt`` (the state dict
    that is kept, on the CPU) and ``metrics.json`` at the end. A run that finds its own checkpoint continues
    from it and ends with the same weights and history, bit for bit and but for the times, as one that was never
    interrupted; with a constant learning rate more ``epochs`` than at first continue a finished run. Torch's
    global generator, thread count and determinism settings are left as they were.

    Under ``torchrun`` every process takes its share of each batch, and the first one writes: the batches, and but
    for rounding the metrics, are those of a single process. Dropout draws other masks.

    Raises:
        ApparelError: the data, the device or ``out`` cannot be used, the checkpoint in ``out`` belongs to
            other settings, or the loss is no longer finite.
    """
    device = resolve_device(config.device)
    if config.out is not None:
        _make_writable(config.out)
    if data is None:
        data = synthetic_data() if config.data is None else load_image_folder(config.data)
    # Of several processes the first writes, and all read.
    out = config.out if distributed.rank() == 0 else None
    with _reproducible(device, config.threads), distributed.process_group(device):
        run = _Run(config, data, device)
        path = None if config.out is None else config.out / CHECKPOINT
        if path is not None and path.exists() and not config.fresh:
            run.load(path)
        distributed.barrier()  # before the first process writes a checkpoint that another takes for an old one
        reporter.started(data, run.history)
        while not run.finished:
            run.train_epoch(reporter)
            if out is not None:
                run.save(out / CHECKPOINT)
        result = run.result()
    if out is not None:
        save_result(result, out)
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
        if device.type == "cuda" and distributed.world_size() > 1:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
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
        self.recipe = recipe = config.recipe
        self.data = data
        self.device = device
        self.train_split = data.train.to(device)
        # Initial weights are drawn on the CPU, so that they do not depend on the device.
        torch.default_generator.manual_seed(config.seed)
        self.model = build_model(recipe, len(data.classes), config.backend).to(device)
        if device.type == "cuda":
            torch.cuda.manual_seed(config.seed)
        self.optimizer = _optimizer(recipe, self.model)
        steps = recipe.epochs * -(-len(data.train) // recipe.batch_size)
        self.schedule = _schedule(recipe, self.optimizer, steps)
        self.shuffling = torch.Generator().manual_seed(config.seed)
        self.augment = Augmentation(len(data.classes)) if recipe.augment else None
        self.history: list[EpochRecord] = []
        self.kept_weights: dict[str, Tensor] = {}
        self.step_model: Callable[[Tensor], Tensor] = distributed.parallel(self.model, device)
        if config.compile:
            self.step_model = torch.compile(self.step_model)

    @property
    def finished(self) -> bool:
        epochs, patience = len(self.history), self.recipe.patience
        stalled = patience is not None and epochs > 0 and epochs - best_epoch(self.history) >= patience
        return stalled or epochs >= self.recipe.epochs

    def train_epoch(self, reporter: Reporter) -> None:
        start = time.perf_counter()
        epoch, size, batch_size = len(self.history) + 1, len(self.train_split), self.recipe.batch_size
        reporter.epoch_started(epoch, -(-size // batch_size))
        sums = torch.zeros(2, dtype=torch.float64)  # of the loss and of right predictions
        data_seconds = 0.0
        self.model.train()
        batches = self.train_split.shuffled(batch_size, self.shuffling, self.augment)
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            _wait_for(self.device)
            data_seconds += time.perf_counter() - before
            if batch is None:
                break
            loss, right = self._step(*batch)
            if not math.isfinite(loss):
                raise ApparelError(f"the loss is {loss} in epoch {epoch}; try an lr below {self.recipe.lr}")
            sums += torch.tensor([loss, right])
            reporter.batch_done(loss / max(1, len(distributed.share(batch[1]))))
        loss_sum, correct = distributed.total(sums.to(self.device)).tolist()
        logits = _predict(self.model, self.data.validation, self.device)
        record = EpochRecord(
            train_loss=loss_sum / size,
            train_accuracy=correct / size,
            val_loss=F.cross_entropy(logits, self.data.validation.labels).item(),
            val_accuracy=_accuracy(logits, self.data.validation.labels),
            seconds=time.perf_counter() - start,
            data_seconds=data_seconds,
        )
        self.history.append(distributed.agreed(record))
        if self.recipe.patience is None or best_epoch(self.history) == epoch:
            self.kept_weights = _copy_weights(self.model)
        reporter.epoch_done(self.history)

    def _step(self, pixels: Tensor, targets: Tensor) -> tuple[float, int]:
        """One step of the optimizer; the sum of the losses of this process's pictures, and how many are right."""
        whole = len(targets)
        pixels, targets = distributed.share(pixels), distributed.share(targets)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            logits = self.step_model(pixels)
        loss = F.cross_entropy(logits.float(), targets, reduction="sum")
        self.optimizer.zero_grad()
        # Gradients become means over the processes; with this factor, over the pictures of all of them.
        (loss * (distributed.world_size() / whole)).backward()
        self.optimizer.step()
        self.schedule.step()
        truth = targets.argmax(1) if targets.is_floating_point() else targets
        return loss.item(), int((logits.argmax(1) == truth).sum())

    def result(self) -> TrainResult:
        self.model.load_state_dict(self.kept_weights)
        probabilities = _predict(self.model, self.data.test, self.device).softmax(1)
        return TrainResult(self.config, self.data, self.model, tuple(self.history), probabilities)

    def _settings(self) -> dict[str, Any]:
        """What decides every number of the run; only how long it lasts may change on resumption."""
        names = ("model", "cures", "seed", "backend", "threads", "amp", "compile")
        settings = {name: getattr(self.config, name) for name in names} | asdict(self.recipe)
        if self.recipe.schedule == "constant":
            del settings["epochs"]
        device = str(self.device)
        return settings | {"device": device, "processes": distributed.world_size(), "data": self.data.digest}

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()} | {
            "settings": self._settings(),
            "shuffling": self.shuffling.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "history": [asdict(record) for record in self.history],
            "kept_weights": self.kept_weights,
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
        if len(history) > self.recipe.epochs:
            raise ApparelError(f"{path} is past epoch {self.recipe.epochs}, at {len(history)}; {remedy}")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.shuffling.set_state(state["shuffling"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        self.history = history
        self.kept_weights = state["kept_weights"]


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return kind(groups, lr=recipe.lr)


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    # One step more than taken: the last is not of length 0.
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps + 1, pct_start=0.2)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def _predict(model: nn.Module, split: Split, device: torch.device) -> Tensor:
    """Logits, float32 ``[N, classes]`` on the CPU; leaves the model in evaluation mode."""
    model.eval()
    return torch.cat([model(pixels.to(device)).cpu() for pixels, _ in split.batches(EVALUATION_BATCH)])


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


def keep_freed_memory() -> None:
    """Tell this process's allocator to keep what is freed instead of giving it back to the system.

    A training step on the CPU frees and takes the same large activations again, and a page that comes fresh from the
    system costs more than what is computed on it: the plain CNN trains 1.8 times as fast. For a process that has
    nothing else to do; without glibc it does nothing.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        trim_threshold, mmap_max = -1, -4  # malloc.h
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_max, 0)


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
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
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
