"""``convops equivariance``: what it prints and writes, and what it says when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import assert_one_line_error
from PIL import Image

from torch_convops.apparel import TrainConfig, load_image_folder, synthetic_data, train
from torch_convops.cli import main
from torch_convops.cli.equivariance import SHIFTS

CLASSES = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "pictures"
    data = synthetic_data(20, 10, 20)
    for name, split in data.splits.items():
        for index, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            if label < CLASSES:
                folder = root / name / data.classes[label]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module", params=["ann", "cnn"])
def run(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(TrainConfig(model=request.param, epochs=1, device="cpu", out=out), load_image_folder(pictures))
    return out


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step or two on ten classes."""
    out = tmp_path_factory.mktemp("untrained")
    train(TrainConfig(epochs=1, device="cpu", out=out), synthetic_data(10, 10, 10))
    return out


def convops(run: Path, *more: str) -> Result:
    few = ["--pictures", "4", "--repeats", "2", "--max-shift", "3"]
    fixed = ["equivariance", "--device", "cpu", "--weights", str(run / "weights.pt")]
    return CliRunner().invoke(main, [*fixed, *few, *more])


def test_prints_and_writes(run: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = convops(run, "--data", str(pictures), "--out", str(out), "--border", "circular")
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"equivariance.json", "equivariance.png"}
    with Image.open(out / "equivariance.png") as image:
        image.load()
    report: dict[str, Any] = json.loads((out / "equivariance.json").read_text())
    model = json.loads((run / "metrics.json").read_text())["model"]
    assert (
        report["model"] == model
        and report["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
        and report["pictures"] == 4
        and report["data"] == str(pictures)
    )
    assert report["curve"]["distances"] == [0, 1, 2, 3] and report["curve"]["border"] == "circular"
    assert report["consistency"]["max_shift"] == 3 and 0 <= report["consistency"]["consistency"] <= 1
    assert f"{report['consistency']['consistency']:.1%}" in result.output and str(out) in result.output
    layers = report["layers"]
    names = ["0 Conv2d", "2 MaxPool2d", "3 Conv2d", "5 MaxPool2d", "6 Conv2d", "8 AvgPool2d", "logits"]
    assert list(layers) == (names if model == "cnn" else ["logits"])
    assert all(len(layer["errors"]) == len(SHIFTS) for layer in layers.values()) and layers["logits"]["stride"] is None
    for name in layers:
        assert name in result.output
    if model == "cnn":
        assert [layers[name]["stride"][0] for name in names[:-1]] == [1, 2, 2, 4, 4, 8]


def test_the_same_arguments_give_the_same_numbers(untrained: Path, tmp_path: Path) -> None:
    reports = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert convops(untrained, "--out", str(tmp_path / name), "--seed", seed).exit_code == 0
        reports.append((tmp_path / name / "equivariance.json").read_bytes())
    assert reports[0] == reports[1] != reports[2]
    assert json.loads(reports[0])["data"] == "synthetic"


def test_one_picture_has_no_standard_error(untrained: Path, tmp_path: Path) -> None:
    result = convops(untrained, "--pictures", "1", "--out", str(tmp_path))
    assert result.exit_code == 0 and "±" not in result.output
    assert json.loads((tmp_path / "equivariance.json").read_text())["consistency"]["standard_error"] is None


def rename(field: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    return damage


def save(value: object) -> Callable[[Path], None]:
    return lambda folder: torch.save(value, folder / "weights.pt")


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        (lambda folder: (folder / "weights.pt").unlink(), ["weights.pt"]),
        (lambda folder: (folder / "metrics.json").unlink(), ["metrics.json"]),
        (lambda folder: (folder / "weights.pt").write_text("none"), ["weights.pt"]),
        (lambda folder: (folder / "metrics.json").write_text("{"), ["metrics.json"]),
        (rename("classes", ["a", "b"]), ["weights.pt"]),
        (rename("classes", list("abcdefghij")), ["synthetic", "dress", "a, b"]),
        (save([1, 2]), ["weights.pt"]),
    ],
)
def test_bad_weights_are_named(
    untrained: Path, tmp_path: Path, damage: Callable[[Path], None], fragments: list[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(untrained, folder)
    damage(folder)
    assert_one_line_error(convops(folder), *fragments)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--pictures", "0"], "pictures"),
        (["--max-shift", "0"], "max-shift"),
        (["--max-shift", "255"], "at most 127 pixels"),
        (["--repeats", "-1"], "repeats"),
        (["--seed", "-1"], "seed"),
        (["--border", "mirror"], "mirror"),
        (["--device", "abacus"], "abacus"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_argument_is_named(untrained: Path, options: list[str], fragment: str) -> None:
    assert_one_line_error(convops(untrained, *options), fragment)


def test_other_classes_are_named(untrained: Path, pictures: Path) -> None:
    assert_one_line_error(convops(untrained, "--data", str(pictures)), "pictures", "not those of the weights")


def test_unusable_out_is_named(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line_error(convops(untrained, "--out", str(tmp_path / "file")), "file")


def test_help() -> None:
    runner = CliRunner()
    assert "equivariance" in runner.invoke(main, ["--help"]).output
    assert runner.invoke(main, ["equivariance", "--help"]).exit_code == 0
