"""``convops zoo``: what it prints and writes, and when it fails."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torch_convops.cli import main, zoo


def convops_zoo(*args: str) -> Result:
    return CliRunner().invoke(main, ["zoo", *args])


def test_table_and_files(tmp_path: Path) -> None:
    files = {"--json": tmp_path / "zoo.json", "--markdown": tmp_path / "zoo.md"}
    result = convops_zoo("--models", "squeezenet1_1", *(str(word) for option in files.items() for word in option))
    assert result.exit_code == 0, result.output
    assert "squeezenet1_1" in result.output
    (model,) = json.loads(files["--json"].read_text())["models"]
    assert (model["model"], model["size"], model["swapped"], model["left"]) == ("squeezenet1_1", 64, 30, 0)
    assert 0 < model["output_error"] < 1e-12
    assert 0 < model["gradient_error"] < 1e-12
    markdown = files["--markdown"].read_text()
    assert all(f"{name} {version(name)}" in markdown.splitlines()[0] for name in ("torchvision", "timm"))
    assert "| squeezenet1_1 |" in markdown


def test_an_error_over_the_bound_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "BOUND", 0.0)
    result = convops_zoo("--models", "squeezenet1_1")
    assert result.exit_code == 1
    assert "squeezenet1_1" in result.output.splitlines()[-1]


def test_patterns_choose_among_all_three_tasks() -> None:
    assert zoo._select(("resnet18", "ssdlite*", "lraspp*")) == ["resnet18", zoo.DETECTION, zoo.SEGMENTATION]
    assert [name for name in zoo._select(()) if not name.startswith(zoo.TIMM)][-2:] == [zoo.DETECTION, zoo.SEGMENTATION]
    result = convops_zoo("--models", "resnet19")
    assert result.exit_code == 2
    assert "no model matches 'resnet19'" in result.output


def test_timms_subclasses_are_left_and_answered_by_the_override() -> None:
    """timm's Conv2dSame is a subclass that calls a function of torch's."""
    comparison = zoo.compare(zoo.TIMM + "tf_mobilenetv3_small_minimal_100")
    assert comparison.size == zoo.SIZE
    assert comparison.left > 0
    assert comparison.calls == comparison.left
    assert 0 < comparison.output_error < 1e-12
    assert 0 < comparison.gradient_error < 1e-12


def test_timms_models_are_chosen_by_their_names() -> None:
    chosen = zoo._select(())
    assert chosen[-len(zoo.TIMM_MODELS) :] == [zoo.TIMM + name for name in zoo.TIMM_MODELS]
    assert set(chosen) >= set(zoo.classifiers())
    assert not set(chosen) - {*zoo.classifiers(), zoo.DETECTION, zoo.SEGMENTATION, *zoo.timms()}
    assert zoo._select(("timm/resnet18",)) == ["timm/resnet18"]
    assert zoo.image_size("timm/levit_128s") == 224  # the only size that it takes
