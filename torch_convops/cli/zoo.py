"""``convops zoo``: torchvision's and timm's models converted, against what they were."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import torch
import torchvision
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils import _pytree as pytree

from .._convert import convert
from .._override import override
from ..bench.machine import versions
from ..bench.models import calibrate
from ._tables import make_console, print_table

BOUND = 1e-6
FLOOR = 1e-6  # of the largest gradient's norm: what is smaller is held to that
BATCH = 2
SIZE = 64
# What takes no pictures of SIZE: the smallest that it takes.
SIZES = {
    "inception_v3": 75,
    "maxvit_t": 224,
    "vit_b_16": 32,
    "vit_b_32": 32,
    "vit_h_14": 28,
    "vit_l_16": 32,
    "vit_l_32": 32,
}
DETECTION, SEGMENTATION = "ssdlite320_mobilenet_v3_large", "lraspp_mobilenet_v3_large"
TIMM = "timm/"  # ahead of the names of timm's models
# One each of families that torchvision has not, or has with other layers.
TIMM_MODELS = (
    "convnextv2_atto",
    "cs3darknet_s",
    "davit_tiny",
    "dla34",
    "dpn48b",
    "edgenext_xx_small",
    "efficientvit_b0",
    "ese_vovnet19b_dw",
    "fastvit_t8",
    "ghostnet_050",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "inception_next_atto",
    "levit_128s",
    "mambaout_femto",
    "mobilenetv4_conv_small",
    "mobileone_s0",
    "mobilevit_xxs",
    "nf_regnet_b0",
    "poolformer_s12",
    "pvt_v2_b0",
    "repvgg_a0",
    "repvit_m0_9",
    "res2net50_14w_8s",
    "resnest14d",
    "resnetblur50",
    "selecsls42b",
    "skresnet18",
    "starnet_s1",
    "tf_efficientnet_b0",
    "tf_mixnet_s",
    "visformer_tiny",
)


@dataclass(frozen=True)
class Comparison:
    """A model before and after it was converted."""

    model: str
    size: int  # of the pictures
    swapped: int  # layers
    left: int
    calls: int  # of functions that the override answered: of poolings and convolutions that are no layers, or left
    output_error: float  # the largest of all outputs: norm of the difference over the norm
    gradient_error: float  # the largest of all parameters and of the pictures


def classifiers() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def detectors() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models.detection)


def segmenters() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models.segmentation)


@functools.cache
def timms() -> list[str]:
    """timm's models under :data:`TIMM`; none where timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return []
    import timm

    return [TIMM + name for name in timm.list_models()]


def image_size(name: str) -> int:
    """The size of the pictures that a model is given."""
    if name in timms():
        import timm

        known = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        return known.input_size[-1] if known and known.fixed_input_size else SIZE
    return SIZES.get(name, SIZE)


def _create(name: str) -> torch.nn.Module:
    if name in timms():
        import timm

        return timm.create_model(name.removeprefix(TIMM), pretrained=False)
    options: dict[str, Any] = {}
    if name in detectors() or name in segmenters():
        options["weights_backbone"] = None
    if name in detectors() and not name.startswith("ssd"):
        options["min_size"] = SIZE  # else pictures are enlarged
    if name.startswith("vit_"):
        options["image_size"] = SIZES[name]
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    return torchvision.models.get_model(name, weights=None, **options)


def build(name: str) -> torch.nn.Module:
    """A model with random weights in float64, in evaluation mode; a detection model, which then has no gradients, in
    training mode."""
    torch.manual_seed(0)
    model = _create(name).double()
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():  # a head that lets no gradient through
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train(name in detectors())


def compare(name: str) -> Comparison:
    """Runs a model and its gradients, converts it, and runs it again within an override."""
    model, size = build(name), image_size(name)
    torch.manual_seed(1)
    images = torch.rand(BATCH, 3, size, size, dtype=torch.float64, requires_grad=True)
    inputs: tuple[Any, ...] = (images,)
    if name in detectors():
        inputs = (list(images), [_target(size) for _ in images])
    calibrate(model, inputs)
    leaves = [images, *(parameter for parameter in model.parameters() if parameter.requires_grad)]

    expected = _outputs(model, inputs)
    _differentiate(expected)
    gradients = [_take_gradient(leaf) for leaf in leaves]
    expected = [output.detach() for output in expected]
    # Some gradients are zero but for rounding, such as that of a bias ahead of a softmax.
    floor = FLOOR * max(gradient.norm().item() for gradient in gradients if gradient is not None)

    report = convert(model)
    with override() as record:
        outputs = _outputs(model, inputs)
    output_error = max(map(relative_error, outputs, expected))

    # Compared as it comes, a gradient need not be kept beside the other gradients of a large model.
    errors: list[float] = []

    def comparing(gradient: torch.Tensor | None) -> Callable[[torch.Tensor], None]:
        def hook(leaf: torch.Tensor) -> None:
            actual = _take_gradient(leaf)
            errors.append(math.inf if actual is None or gradient is None else relative_error(actual, gradient, floor))

        return hook

    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.register_post_accumulate_grad_hook(comparing(gradient))
    _differentiate(outputs)
    if len(errors) != sum(gradient is not None for gradient in gradients):
        errors.append(math.inf)
    return Comparison(
        model=name,
        size=size,
        swapped=len(report.converted),
        left=len(report.left),
        calls=sum(record.calls.values()),
        output_error=output_error,
        gradient_error=max(errors),
    )


def relative_error(actual: torch.Tensor, expected: torch.Tensor, floor: float = 0.0) -> float:
    """Norm of the difference over the norm of what is expected, or a larger floor; infinite where a number is none."""
    if actual.shape != expected.shape:
        return math.inf
    difference, norm = (actual - expected).norm().item(), max(floor, expected.norm().item())
    if difference == 0:
        return 0.0
    return difference / norm if norm > 0 and math.isfinite(difference) else math.inf


def _target(size: int) -> dict[str, torch.Tensor]:
    """One object, with what the several kinds of detection want to know of it."""
    low, high = size // 8, size // 2
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[:, low:high, low:high] = 1
    return {
        "boxes": torch.tensor([[low, low, high, high]], dtype=torch.float64),
        "labels": torch.tensor([1]),
        "masks": mask,
        "keypoints": torch.tensor([[[low, low, 1], [high, high, 1]] * 8 + [[low, high, 1]]], dtype=torch.float32),
    }


def _outputs(model: torch.nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    torch.manual_seed(2)  # of what a detection model samples
    return pytree.tree_leaves(model(*inputs))


def _differentiate(outputs: Iterable[torch.Tensor]) -> None:
    torch.manual_seed(3)
    total: Any = sum((output * torch.randn_like(output)).sum() for output in outputs)
    total.backward()


def _take_gradient(leaf: torch.Tensor) -> torch.Tensor | None:
    gradient, leaf.grad = leaf.grad, None
    return gradient


# --- the command ---

_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.option(
    "--models",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Models of torchvision for classification, detection and segmentation by name, and of timm as timm/NAME; "
    "* and ? as in file names. May be given several times.  [default: all of torchvision's for classification, one "
    "each for the others, and where timm is installed one each of many of its families]",
)
@click.option("--json", "json_file", type=_FILE, help="Also write all results as JSON.")
@click.option("--markdown", "markdown_file", type=_FILE, help="Also write a Markdown table.")
def command(patterns: tuple[str, ...], json_file: Path | None, markdown_file: Path | None) -> None:
    """Convert torchvision's and timm's models and compare outputs and gradients with what they were.

    Random weights, small pictures and float64 on the CPU; evaluation mode, losses for detection. Errors are relative,
    the largest of all outputs and of all parameters; over 1e-6 the exit status is 1.
    """
    names = _select(patterns)
    console = make_console()
    progress = Console(stderr=True)
    comparisons = []
    for name in track(names, "models", console=progress, transient=True, disable=not progress.is_terminal):
        comparisons.append(compare(name))
    print_table(console, _table(comparisons))
    facts = {**versions(), "torchvision": torchvision.__version__}
    if timms():
        facts["timm"] = importlib.metadata.version("timm")
    if json_file:
        json_file.write_text(json.dumps({"versions": facts, "models": list(map(asdict, comparisons))}, indent=2) + "\n")
    if markdown_file:
        markdown_file.write_text(_as_markdown(comparisons, facts))
    wrong = [comparison.model for comparison in comparisons if not _is_right(comparison)]
    if wrong:
        console.print(f"over {BOUND:.0e}: {', '.join(wrong)}", style="red", soft_wrap=True)
        raise click.exceptions.Exit(1)


def _select(patterns: tuple[str, ...]) -> list[str]:
    if not patterns:
        return [*classifiers(), DETECTION, SEGMENTATION, *(TIMM + name for name in TIMM_MODELS if timms())]
    known = [*classifiers(), *detectors(), *segmenters(), *timms()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise click.BadParameter(f"no model matches {pattern!r}", param_hint="'--models'")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _is_right(comparison: Comparison) -> bool:
    return max(comparison.output_error, comparison.gradient_error) <= BOUND


def _table(comparisons: list[Comparison], table_box: box.Box = box.SIMPLE_HEAD) -> Table:
    table = Table(box=table_box)
    table.add_column("model", no_wrap=True)
    for heading in ("size", "layers swapped", "left", "other calls", "error of outputs", "of gradients"):
        table.add_column(heading, justify="right")
    for c in comparisons:
        numbers = (c.size, c.swapped, c.left, c.calls)
        errors = (f"{c.output_error:.1e}", f"{c.gradient_error:.1e}")
        table.add_row(c.model, *map(str, numbers), *errors, style="" if _is_right(c) else "red")
    return table


def _as_markdown(comparisons: list[Comparison], facts: dict[str, str]) -> str:
    console = make_console()
    with console.capture() as capture:
        print_table(console, _table(comparisons, box.MARKDOWN))
    lines = [line.strip() for line in capture.get().strip().splitlines()]
    return "\n".join([", ".join(f"{name} {value}" for name, value in facts.items()), "", *lines]) + "\n"
