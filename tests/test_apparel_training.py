"""The apparel case study as a library: data, synthetic pictures, models and exact training."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from torch_convops.apparel import (
    ApparelData,
    ApparelError,
    EpochRecord,
    TrainConfig,
    TrainResult,
    build_model,
    load_image_folder,
    plots,
    synthetic_data,
    train,
    training,
)

BACKENDS = ("torch", "convops")


@pytest.fixture(scope="module")
def data() -> ApparelData:
    return synthetic_data(16, 10, 10)


@pytest.fixture(scope="module", params=BACKENDS)
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return TrainConfig(backend=request.param, epochs=2, batch_size=4, device="cpu", threads=2)


@pytest.fixture(scope="module")
def result(config: TrainConfig, data: ApparelData) -> TrainResult:
    return train(config, data)


class Recorder:
    """Keeps every loss, and interrupts training at the given batch, counted from 1 over all epochs."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.losses: list[float] = []
        self.resumed_after: int | None = None
        self.interrupt_at = interrupt_at

    def started(self, data: ApparelData, history: list[EpochRecord]) -> None:
        self.resumed_after = len(history)

    def epoch_started(self, epoch: int, batches: int) -> None: ...

    def batch_done(self, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.interrupt_at:
            raise KeyboardInterrupt

    def epoch_done(self, history: list[EpochRecord]) -> None: ...


def without_times(history: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in history]


def assert_same_run(result: TrainResult, expected: TrainResult) -> None:
    assert without_times(result.history) == without_times(expected.history)
    weights, expected_weights = result.model.state_dict(), expected.model.state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected_weights[name]), name
    assert torch.equal(result.probabilities, expected.probabilities)


# ---- training ----------------------------------------------------------------------------------------------


def test_same_arguments_give_the_same_bits(config: TrainConfig, data: ApparelData, result: TrainResult) -> None:
    assert_same_run(train(config, data), result)


@pytest.mark.parametrize("interrupt_at", [2, 5, 8])  # four batches an epoch
def test_resumed_run_equals_uninterrupted(
    config: TrainConfig, data: ApparelData, result: TrainResult, tmp_path: Path, interrupt_at: int
) -> None:
    config = replace(config, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, Recorder(interrupt_at))
    recorder = Recorder()
    resumed = train(config, data, recorder)
    assert recorder.resumed_after == (interrupt_at - 1) // 4
    assert_same_run(resumed, result)


def test_more_epochs_continue_a_finished_run(
    config: TrainConfig, data: ApparelData, result: TrainResult, tmp_path: Path
) -> None:
    train(replace(config, out=tmp_path, epochs=1), data)
    assert_same_run(train(replace(config, out=tmp_path), data), result)


def test_fresh_ignores_the_checkpoint(data: ApparelData, tmp_path: Path) -> None:
    config = TrainConfig(backend="torch", epochs=1, device="cpu", out=tmp_path)
    train(config, data)
    recorder = Recorder()
    train(replace(config, fresh=True, seed=1), data, recorder)
    assert recorder.resumed_after == 0


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 1e-4}, {"model": "ann"}, {"batch_size": 5}])
def test_checkpoint_of_other_settings_is_refused(data: ApparelData, tmp_path: Path, change: dict[str, object]) -> None:
    config = TrainConfig(backend="torch", epochs=1, batch_size=8, device="cpu", out=tmp_path)
    train(config, data)
    with pytest.raises(ApparelError, match=f"different {next(iter(change))}"):
        train(replace(config, **change), data)  # type: ignore[arg-type]


def test_checkpoint_of_other_data_or_more_epochs_is_refused(data: ApparelData, tmp_path: Path) -> None:
    config = TrainConfig(backend="torch", epochs=2, device="cpu", out=tmp_path)
    train(config, data)
    with pytest.raises(ApparelError, match="different data"):
        train(config, synthetic_data(10, 10, 10, seed=1))
    with pytest.raises(ApparelError, match="past epoch 1"):
        train(replace(config, epochs=1), data)


def test_damaged_checkpoint_is_refused(data: ApparelData, tmp_path: Path) -> None:
    (tmp_path / training.CHECKPOINT).write_bytes(b"half a checkpo")
    with pytest.raises(ApparelError, match="not a readable checkpoint"):
        train(TrainConfig(backend="torch", device="cpu", out=tmp_path), data)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), training.replacing(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"


def test_early_stopping_keeps_the_best_weights(config: TrainConfig, data: ApparelData) -> None:
    # With so small a step no prediction changes: the first epoch stays the best.
    result = train(replace(config, lr=1e-12, patience=2, epochs=10), data)
    assert len(result.history) == 3 and result.stopped_early and result.best_epoch == 1
    first = train(replace(config, lr=1e-12, epochs=1), data)
    assert all(map(torch.equal, result.model.state_dict().values(), first.model.state_dict().values()))
    assert not first.stopped_early


def test_backends_agree(data: ApparelData) -> None:
    recorders = {backend: Recorder() for backend in BACKENDS}
    for backend, recorder in recorders.items():
        train(TrainConfig(backend=backend, epochs=3, batch_size=4, device="cpu"), data, recorder)
    torch.testing.assert_close(recorders["convops"].losses, recorders["torch"].losses, rtol=1e-4, atol=0)


@pytest.mark.parametrize("model", ["ann", "cnn"])
def test_backends_share_initial_weights(model: str) -> None:
    states = []
    for backend in BACKENDS:
        torch.manual_seed(3)
        states.append(build_model(model, 4, backend).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_metrics_describe_the_run(data: ApparelData, result: TrainResult) -> None:
    metrics = result.metrics()
    assert metrics["epochs"] == len(metrics["history"]) == 2
    assert metrics["data"] == "synthetic" and metrics["synthetic"] is True
    assert metrics["best_val_accuracy"] == max(record.val_accuracy for record in result.history)
    assert metrics["test_accuracy"] == result.confusion.diagonal().sum() / len(data.test)
    assert result.confusion.sum(1).tolist() == data.test.labels.bincount().tolist()


def test_global_state_is_restored(data: ApparelData) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_rng_state().tolist(),
        )

    before = state()
    train(TrainConfig(backend="torch", epochs=1, device="cpu", threads=1), data)
    assert state() == before


def test_infinite_loss_is_reported(data: ApparelData) -> None:
    with pytest.raises(ApparelError, match="try an lr below"):
        train(TrainConfig(backend="torch", lr=1e30, batch_size=8, device="cpu"), data)


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"patience": 0},
        {"threads": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"seed": -1},
        {"model": "rnn"},
        {"backend": "jax"},
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} must be"):
        TrainConfig(**arguments)  # type: ignore[arg-type]


def test_figures_can_be_decoded(result: TrainResult, tmp_path: Path) -> None:
    paths = plots.save_figures(result, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        with Image.open(path) as image:
            levels = np.asarray(image.convert("L"))
        assert levels.min() < 64 and levels.max() == 255, path
    shown = plots.predictions(result, rows=2, columns=3).axes
    assert len(shown) == 6 and all(axes.images for axes in shown)


# ---- data --------------------------------------------------------------------------------------------------


def test_image_folder_is_read_resized_and_normalized(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        for name, colour in (("black", (0, 0, 0)), ("red", (255, 0, 0))):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (50, 70), colour).save(folder / "a.png")
            Image.new("L", (128, 128), colour[0]).save(folder / "b.png")
    data = load_image_folder(tmp_path)
    assert data.classes == ("black", "red") and data.source == str(tmp_path)
    assert data.train.images.shape == (4, 3, 128, 128) and data.train.images.dtype == torch.uint8
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.train.images[2].flatten(1).float().mean(1).tolist() == [255, 0, 0]
    pixels, labels = next(data.train.batches(3, torch.device("cpu")))
    assert pixels.dtype == torch.float32 and pixels.is_contiguous(memory_format=torch.channels_last)
    assert [float(pixels.min()), float(pixels.max())] == [-1, 1] and labels.tolist() == [0, 0, 1]


def test_batches_cover_the_split_in_a_seeded_order(data: ApparelData) -> None:
    def order(seed: int) -> list[int]:
        batches = data.train.batches(7, torch.device("cpu"), torch.Generator().manual_seed(seed))
        return torch.cat([labels for _, labels in batches]).tolist()

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == sorted(data.train.labels.tolist())


def test_digest_sees_the_pixels_not_the_place(data: ApparelData) -> None:
    assert data.digest == replace(data, directory=Path("elsewhere")).digest
    changed = replace(data.test, images=data.test.images.flip(0))
    assert data.digest != replace(data, test=changed).digest


# ---- synthetic pictures ------------------------------------------------------------------------------------


def test_synthetic_pictures_depend_on_the_seed_alone() -> None:
    data, larger, other = synthetic_data(20, 5, 5), synthetic_data(30, 5, 5), synthetic_data(20, 5, 5, seed=1)
    assert torch.equal(data.train.images, larger.train.images[:20])
    assert not torch.equal(data.train.images, other.train.images)
    assert not torch.equal(data.validation.images, data.test.images)


def test_synthetic_classes_are_balanced_and_not_linear() -> None:
    data = synthetic_data(500, 10, 100)
    assert data.train.labels.bincount().tolist() == [50] * 10
    assert len(data.classes) == 10

    def features(images: torch.Tensor) -> torch.Tensor:
        coarse = F.avg_pool2d(images.double() / 255, 4).flatten(1)
        return torch.cat([coarse - coarse.mean(1, keepdim=True), torch.ones(len(images), 1)], dim=1)

    # Ridge regression in its dual form: as many unknowns as pictures.
    train_x, test_x = features(data.train.images), features(data.test.images)
    targets = F.one_hot(data.train.labels).double()
    dual = torch.linalg.solve(train_x @ train_x.T + 30 * torch.eye(len(train_x)), targets)
    correct = (test_x @ (train_x.T @ dual)).argmax(1) == data.test.labels
    assert 0.15 < correct.double().mean() < 0.55


def test_weights_file_is_a_plain_state_dict(data: ApparelData, tmp_path: Path) -> None:
    result = train(TrainConfig(backend="torch", epochs=1, device="cpu", out=tmp_path), data)
    state = torch.load(io.BytesIO((tmp_path / training.WEIGHTS).read_bytes()), weights_only=True)
    model = build_model("cnn", 10, "torch")
    model.load_state_dict(state)
    logits = torch.cat([model(pixels) for pixels, _ in data.test.batches(20, torch.device("cpu"))])
    assert torch.equal(logits.argmax(1), result.probabilities.argmax(1))
