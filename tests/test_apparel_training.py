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
    CURES,
    MODELS,
    ApparelData,
    ApparelError,
    EpochRecord,
    Recipe,
    TrainConfig,
    TrainResult,
    ablation,
    build_model,
    load_classifier,
    load_image_folder,
    plots,
    synthetic_data,
    train,
    training,
)
from torch_convops.apparel.augmentation import Augmentation
from torch_convops.apparel.data import read_picture

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
    return [replace(record, seconds=0.0, data_seconds=0.0) for record in history]


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
    assert len(result.history) == 3 and result.stopped_early and result.kept_epoch == result.best_epoch == 1
    first = train(replace(config, lr=1e-12, epochs=1), data)
    assert all(map(torch.equal, result.model.state_dict().values(), first.model.state_dict().values()))
    assert not first.stopped_early


def test_backends_agree(data: ApparelData) -> None:
    recorders = {backend: Recorder() for backend in BACKENDS}
    for backend, recorder in recorders.items():
        train(TrainConfig(backend=backend, epochs=3, batch_size=4, device="cpu"), data, recorder)
    torch.testing.assert_close(recorders["convops"].losses, recorders["torch"].losses, rtol=1e-4, atol=0)


def test_without_patience_the_last_weights_are_kept(config: TrainConfig, data: ApparelData) -> None:
    result = train(replace(config, lr=1e-12, epochs=3), data)
    assert len(result.history) == result.kept_epoch == 3 and result.best_epoch == 1 and not result.stopped_early


@pytest.mark.parametrize("model", list(MODELS))
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
        {"cures": ("sleep",)},
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


# ---- recipes and cures -------------------------------------------------------------------------------------


def test_the_tuned_model_has_every_cure() -> None:
    tuned, plain = MODELS["cnn-tuned"], MODELS["cnn"]
    for name, cure in CURES.items():
        assert cure.apply(plain) != plain, name
        for field in cure.changes:
            assert getattr(tuned, field) != getattr(plain, field), field
    assert TrainConfig(model="cnn-tuned", lr=1e-3).recipe == replace(tuned, lr=1e-3)
    assert TrainConfig(cures=("dropout", "schedule")).recipe == replace(
        plain, dropout=0.5, schedule="one-cycle", lr=2e-3
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "vgg"}, "network must be one of"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
    ],
)
def test_recipes_out_of_range_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ApparelError, match=message):
        Recipe(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cures", [(), *((name,) for name in CURES), tuple(CURES)], ids="+".join)
def test_every_cure_trains(cures: tuple[str, ...], backend: str, data: ApparelData) -> None:
    config = TrainConfig(cures=cures, backend=backend, epochs=1, batch_size=8, device="cpu")
    result = train(config, data)
    assert len(result.history) == 1 and result.probabilities.sum(1).allclose(torch.ones(10))
    assert 0 < result.data_share < 1
    model = build_model(config.recipe, 10, backend)
    assert model.state_dict().keys() == result.model.state_dict().keys()
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()) == config.recipe.batch_norm
    assert any(isinstance(module, torch.nn.Dropout) for module in model.modules()) == (config.recipe.dropout > 0)


@pytest.mark.parametrize("interrupt_at", [3, 4])  # two batches an epoch
def test_resumption_restores_everything_that_is_drawn(data: ApparelData, tmp_path: Path, interrupt_at: int) -> None:
    """Schedule, dropout masks, augmentation and running means too."""
    config = TrainConfig(model="cnn-tuned", backend="torch", epochs=3, batch_size=8, patience=3, device="cpu")
    expected = train(config, data)
    config = replace(config, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, Recorder(interrupt_at))
    assert_same_run(train(config, data), expected)
    with pytest.raises(ApparelError, match="different epochs"):  # the schedule would be another
        train(replace(config, epochs=4), data)


def test_bfloat16_and_compile_change_rounding_only(data: ApparelData) -> None:
    config = TrainConfig(backend="convops", epochs=1, batch_size=8, device="cpu")
    losses = {}
    for name, change in (("plain", {}), ("amp", {"amp": True}), ("compile", {"compile": True})):
        recorder = Recorder()
        train(replace(config, **change), data, recorder)  # type: ignore[arg-type]
        losses[name] = recorder.losses
    torch.testing.assert_close(losses["amp"], losses["plain"], rtol=0.02, atol=0)
    torch.testing.assert_close(losses["compile"], losses["plain"], rtol=1e-4, atol=0)
    assert losses["amp"] != losses["plain"]


def test_augmentation_is_drawn_by_its_seed_alone(data: ApparelData) -> None:
    augment, (images, labels) = Augmentation(10), (data.train.images, data.train.labels)
    state = torch.get_rng_state()
    drawn = [augment(images, labels, seed) for seed in range(40)]
    assert torch.equal(torch.get_rng_state(), state)
    again = augment(images, labels, 7)
    assert all(map(torch.equal, again, drawn[7])) and not torch.equal(drawn[7][0], drawn[8][0])
    mixed = [targets for _, targets in drawn if targets.is_floating_point()]
    assert 10 < len(mixed) < 30
    for targets in mixed:
        torch.testing.assert_close(targets.sum(1), torch.ones(len(labels)))
    for pixels, _ in drawn:
        assert pixels.shape == images.shape and pixels.is_contiguous(memory_format=torch.channels_last)
        assert pixels.min() >= -1 and pixels.max() <= 1
    assert torch.equal(images, data.train.images)


def test_ablation_has_each_cure_alone_and_added() -> None:
    names = [variant.cures for variant in ablation.variants()]
    assert names[0] == () and names[1 : len(CURES) + 1] == [(name,) for name in CURES]
    assert names[-1] == tuple(CURES) and len(names) == 2 * len(CURES) + 1
    folders = {variant.folder: variant.cures for variant in ablation.variants()}
    assert len(folders) == 2 * len(CURES)  # the first cure alone is also the first added


# ---- trained classifiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ann", "cnn-tuned"])
def test_a_trained_classifier_is_read_back(model: str, data: ApparelData, tmp_path: Path) -> None:
    result = train(TrainConfig(model=model, epochs=1, batch_size=8, device="cpu", out=tmp_path), data)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, image in zip(files, data.test.images, strict=False):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    for path in (tmp_path, tmp_path / training.WEIGHTS):
        classifier = load_classifier(path)
        assert classifier.name == model and classifier.classes == data.classes
        torch.testing.assert_close(classifier.probabilities(files), result.probabilities[:3])


def test_what_is_no_classifier_is_named(data: ApparelData, tmp_path: Path) -> None:
    with pytest.raises(ApparelError, match="no such file"):
        load_classifier(tmp_path)
    train(TrainConfig(backend="torch", epochs=1, device="cpu", out=tmp_path), data)
    (tmp_path / training.WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ApparelError, match="not a classifier written by"):
        load_classifier(tmp_path)


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
    pixels, labels = next(data.train.batches(3))
    assert pixels.dtype == torch.float32 and pixels.is_contiguous(memory_format=torch.channels_last)
    assert [float(pixels.min()), float(pixels.max())] == [-1, 1] and labels.tolist() == [0, 0, 1]


def test_pictures_of_any_mode_are_read(tmp_path: Path) -> None:
    """Transparent over white, 16 bits scaled, palettes, and upright as the camera noted it."""
    grey = Image.fromarray(np.full((40, 60), 128 * 256, dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    half = Image.new("RGB", (128, 128), "red")
    half.paste("blue", (0, 0, 128, 64))
    for name, image, top in (
        ("clear.png", Image.new("RGBA", (50, 50), (255, 0, 0, 0)), (255, 255, 255)),
        ("grey.png", grey, (128, 128, 128)),
        ("palette.gif", Image.new("RGB", (300, 20), (0, 255, 0)).quantize(4), (0, 255, 0)),
        ("one.bmp", Image.new("1", (9, 9), 1), (255, 255, 255)),
        ("half.png", half, (0, 0, 255)),
    ):
        image.save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        assert picture.shape == (3, 128, 128) and picture.dtype == torch.uint8
        assert tuple(picture[:, 5, 5].tolist()) == top, name
    half.save(tmp_path / "turned.png", exif=exif)
    assert tuple(read_picture(tmp_path / "turned.png")[:, 5, 5].tolist()) == (255, 0, 0)


def test_batches_cover_the_split_in_a_seeded_order(data: ApparelData) -> None:
    def order(seed: int) -> list[int]:
        batches = data.train.shuffled(7, torch.Generator().manual_seed(seed))
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
    logits = torch.cat([model(pixels) for pixels, _ in data.test.batches(20)])
    assert torch.equal(logits.argmax(1), result.probabilities.argmax(1))
