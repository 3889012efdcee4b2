"""``convops train``: what it writes, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import assert_one_line_error
from PIL import Image

from torch_convops.apparel import synthetic_data
from torch_convops.cli import main

FIGURES = {"learning_curves.png", "confusion_matrix.png", "predictions.png"}
FILES = FIGURES | {"checkpoint.pt", "weights.pt", "metrics.json"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, twelve pictures to train on."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    data = synthetic_data(40, 10, 10)
    for name, split in data.splits.items():
        for index, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            if label < 3:
                folder = root / name / data.classes[label]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return root


def arguments(data: Path, out: Path, *more: str, backend: str = "torch", epochs: int = 2) -> list[str]:
    fixed = f"train --epochs {epochs} --batch-size 4 --device cpu --backend {backend}".split()
    return [*fixed, "--data", str(data), "--out", str(out), *more]


def convops(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def history(out: Path) -> list[dict[str, float]]:
    metrics = json.loads((out / "metrics.json").read_text())
    return [{name: value for name, value in record.items() if "seconds" not in name} for record in metrics["history"]]


def assert_same_files(out: Path, expected: Path) -> None:
    assert history(out) == history(expected)
    weights, expected_weights = torch.load(out / "weights.pt"), torch.load(expected / "weights.pt")
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


@pytest.mark.parametrize("backend", ["torch", "convops"])
def test_writes_metrics_weights_and_figures(pictures: Path, tmp_path: Path, backend: str) -> None:
    result = convops(*arguments(pictures, tmp_path, "--seed", "4", backend=backend))
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for name in FIGURES:
        with Image.open(tmp_path / name) as image:
            image.load()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["seed"] == 4 and metrics["epochs"] == 2 and metrics["model"] == "cnn"
    assert metrics["backend"] == backend and metrics["data"] == str(pictures) and not metrics["synthetic"]
    assert metrics["classes"] == ["dress", "hat", "longsleeve"]
    assert 0 <= metrics["test_accuracy"] <= 1 and 0 <= metrics["best_val_accuracy"] <= 1
    assert set(metrics["history"][0]) >= {
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "seconds",
        "data_seconds",
    }
    assert f"{metrics['test_accuracy']:.1%}" in result.output
    assert str(tmp_path) in result.output


def test_several_models_are_compared(pictures: Path, tmp_path: Path) -> None:
    result = convops(*arguments(pictures, tmp_path, "--model", "ann", "--model", "cnn", epochs=1))
    assert result.exit_code == 0, result.output
    for model in ("ann", "cnn"):
        assert {path.name for path in (tmp_path / model).iterdir()} == FILES
        assert json.loads((tmp_path / model / "metrics.json").read_text())["model"] == model
    assert "test accuracy" in result.output


def test_runs_with_the_same_arguments_are_identical(pictures: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        assert convops(*arguments(pictures, out)).exit_code == 0
    assert_same_files(*outs)
    assert (outs[0] / "weights.pt").read_bytes() == (outs[1] / "weights.pt").read_bytes()


@pytest.mark.parametrize("model", ["--model ann", "--model cnn --cure batch-norm --cure augmentation"])
def test_two_processes_train_as_one(pictures: Path, tmp_path: Path, model: str) -> None:
    """The batches are shared out, and the last of one picture leaves a process without any."""
    one, two = tmp_path / "one", tmp_path / "two"
    shared = [*model.split(), "--batch-size", "11"]  # of twelve pictures
    assert convops(*arguments(pictures, one, *shared, backend="convops")).exit_code == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "torch_convops.cli", *arguments(pictures, two, *shared, backend="convops")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test accuracy") == 1
    metrics = json.loads((two / "metrics.json").read_text())
    assert metrics["processes"] == 2
    for record, expected in zip(history(two), history(one), strict=True):
        assert record == pytest.approx(expected, rel=2e-4)
    weights, expected_weights = torch.load(two / "weights.pt"), torch.load(one / "weights.pt")
    assert weights.keys() == expected_weights.keys()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_process_goes_on(pictures: Path, tmp_path: Path, stop: signal.Signals) -> None:
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    endless = ("--patience", "1000000")
    command = [sys.executable, "-m", "torch_convops.cli", *arguments(pictures, stopped, *endless, epochs=1000000)]

    def hear_interrupts() -> None:
        """Shells have what they start in the background ignore Ctrl-C, and that is inherited."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts) as process:
        deadline = time.monotonic() + 60
        while not (stopped / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        errors = ""
        for _ in range(4):  # an interrupt can be lost, as in a destructor: press Ctrl-C again
            process.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, errors = process.communicate(timeout=10)
                break
        else:
            process.kill()
    assert process.returncode == (130 if stop == signal.SIGINT else -stop)
    assert "Traceback" not in errors
    epochs = len(torch.load(stopped / "checkpoint.pt")["history"]) + 1
    for out in (stopped, whole):
        assert convops(*arguments(pictures, out, *endless, epochs=epochs)).exit_code == 0
    assert_same_files(stopped, whole)


def test_other_settings_are_refused_until_fresh(pictures: Path, tmp_path: Path) -> None:
    assert convops(*arguments(pictures, tmp_path, epochs=1)).exit_code == 0
    other = arguments(pictures, tmp_path, "--seed", "1", epochs=1)
    assert_one_line_error(convops(*other), "checkpoint.pt", "different seed", "--fresh")
    assert convops(*other, "--fresh").exit_code == 0


def remove_all(root: Path) -> None:
    shutil.rmtree(root)


def empty(root: Path) -> None:
    remove_all(root)
    root.mkdir()


def remove_validation(root: Path) -> None:
    shutil.rmtree(root / "validation")


def empty_test(root: Path) -> None:
    empty(root / "test")


def empty_class(root: Path) -> None:
    empty(root / "train" / "hat")


def break_picture(root: Path) -> None:
    picture = next((root / "train" / "hat").iterdir())
    picture.write_bytes(picture.read_bytes()[:200])


def replace_picture_by_text(root: Path) -> None:
    next((root / "test" / "hat").iterdir()).write_text("no picture")


def rename_class(root: Path) -> None:
    (root / "test" / "hat").rename(root / "test" / "cap")


def keep_one_class(root: Path) -> None:
    for split in ("train", "validation", "test"):
        for name in ("hat", "longsleeve"):
            shutil.rmtree(root / split / name)


def replace_by_file(root: Path) -> None:
    remove_all(root)
    root.write_text("no directory")


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        (remove_all, ["pictures"]),
        (replace_by_file, ["pictures"]),
        (empty, ["pictures", "'train'"]),
        (remove_validation, ["pictures", "'validation'"]),
        (empty_test, ["pictures/test"]),
        (empty_class, ["pictures/train", "hat"]),
        (break_picture, ["pictures/train/hat/", ".png"]),
        (replace_picture_by_text, ["pictures/test/hat/", ".png"]),
        (rename_class, ["pictures/test", "'cap'"]),
        (keep_one_class, ["pictures/train", "'dress'"]),
    ],
)
def test_bad_directory_is_named(
    pictures: Path, tmp_path: Path, damage: Callable[[Path], None], fragments: list[str]
) -> None:
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    damage(root)
    assert_one_line_error(convops(*arguments(root, tmp_path / "out")), *fragments)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--epochs", "0"], "epochs"),
        (["--epochs", "many"], "epochs"),
        (["--batch-size", "-1"], "batch_size"),
        (["--lr", "nan"], "lr"),
        (["--patience", "0"], "patience"),
        (["--threads", "0"], "threads"),
        (["--seed", "-1"], "seed"),
        (["--model", "rnn"], "rnn"),
        (["--backend", "jax"], "jax"),
        (["--device", "abacus"], "abacus"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--lr", "1e30"], "loss"),
    ],
)
def test_bad_argument_is_named(pictures: Path, tmp_path: Path, options: list[str], fragment: str) -> None:
    assert_one_line_error(convops(*arguments(pictures, tmp_path), *options), fragment)


def test_unusable_out_is_named(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.write_text("")
    assert_one_line_error(convops(*arguments(pictures, out)), str(out))
    assert_one_line_error(convops(*arguments(pictures, out / "below")), str(out))


def test_help_lists_the_commands() -> None:
    result = convops("--help")
    assert result.exit_code == 0
    for name in ("info", "check", "bench", "train", "ablate", "predict", "equivariance"):
        assert name in result.output
    assert convops("train", "--help").exit_code == 0
    assert convops("nonsense").exit_code == 2


# ---- predict and ablate ------------------------------------------------------------------------------------


def test_predict_prints_the_top_classes(pictures: Path, tmp_path: Path) -> None:
    assert convops(*arguments(pictures, tmp_path, "--model", "cnn-tuned", epochs=1)).exit_code == 0
    picture = next((pictures / "test" / "hat").iterdir())
    with Image.open(picture) as image:
        image.resize((333, 77)).save(tmp_path / "wide.webp")
    result = convops("predict", str(picture), str(tmp_path / "wide.webp"), "--weights", str(tmp_path), "--top", "2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{picture}: ") and lines[0].count("%") == 2
    result = convops("predict", str(picture), "--weights", str(tmp_path), "--top", "9", "--json")
    answer = json.loads(result.stdout)
    assert set(answer["classes"]) == {"dress", "hat", "longsleeve"}
    assert sum(answer["classes"].values()) == pytest.approx(1)
    assert list(answer["classes"].values()) == sorted(answer["classes"].values(), reverse=True)


def test_predict_names_what_is_no_picture(pictures: Path, tmp_path: Path) -> None:
    assert convops(*arguments(pictures, tmp_path, epochs=1)).exit_code == 0
    picture = next((pictures / "test" / "hat").iterdir())
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    result = convops("predict", str(text), str(tmp_path / "missing.png"), str(picture), "--weights", str(tmp_path))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert [line.split(" ")[-1] for line in result.stderr.splitlines()] == [str(text), str(tmp_path / "missing.png")]
    assert result.stdout.startswith(f"{picture}: ")
    assert_one_line_error(convops("predict", str(picture), "--weights", str(tmp_path / "nowhere")), "no such file")


def test_ablation_measures_resumes_and_writes(pictures: Path, tmp_path: Path) -> None:
    command = ["ablate", "--data", str(pictures), "--out", str(tmp_path), "--backend", "torch", "--device", "cpu"]
    command += ["--epochs", "1", "--batch-size", "16"]
    assert convops(*command, "--seed", "3").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.pt")}
    result = convops(*command, "--seed", "3", "--seed", "4")
    assert result.exit_code == 0, result.output
    assert len(before) == 16 and all(path.stat().st_mtime_ns == time for path, time in before.items())
    study = json.loads((tmp_path / "ablation.json").read_text())
    assert len(study["outcomes"]) == 17 and study["outcomes"][0]["name"] == "plain"
    for outcome in study["outcomes"]:
        assert outcome["seeds"] == [3, 4] and len(outcome["test_accuracy"]) == 2
        assert outcome["mean"] == pytest.approx(sum(outcome["test_accuracy"]) / 2)
    table = (tmp_path / "ablation.md").read_text().splitlines()
    assert len(table) == 2 + 2 + 17 and "+ residual" in table[-1]
    with Image.open(tmp_path / "ablation.png") as image:
        image.load()
