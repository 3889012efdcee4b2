"""``convops bench``: rows of the benchmark and whole models against torch, and what the machine can do at most."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import algorithms, bench, build_info
from .._library import OPERATORS
from ..bench.machine import machine, versions
from ._bench_report import Report, as_json, as_markdown, compile_failures, tables
from ._tables import make_console, print_table
from .info import NO_DEVICE

PASSES = {
    "forward": ("forward",),
    "grad_input": ("grad_input",),
    "grad_weight": ("grad_weight",),
    "training": ("training",),
    "both": ("forward", "training"),
    "all": bench.PASSES,
}
DEFAULT_DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
DEFAULT_PASS = {"cpu": "both", "cuda": "all"}
DEFAULT_BATCH = {"cpu": 4, "cuda": 64}  # of whole models
DEFAULT_IMAGE_SIZE = {"cpu": 160, "cuda": 224}
PICTURES = (".png", ".svg")


def _writable_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and not path.resolve().parent.is_dir():
        raise click.BadParameter(f"directory {path.parent} does not exist")
    return path


def _picture_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in PICTURES:
        raise click.BadParameter(f"must end in {' or '.join(PICTURES)}, got {path}")
    return _writable_file(ctx, param, path)


_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
    help="[default: float32 on the CPU, bfloat16 on CUDA]",
)
@click.option(
    "--suite",
    "suites",
    type=click.Choice(["core", "all", "models"]),
    multiple=True,
    default=("core",),
    show_default=True,
    help="core: layers of well-known CNNs; all: a wider grid as well; models: whole models of torchvision, as they are "
    "and converted. May be given several times.",
)
@click.option(
    "--peer",
    type=click.Choice(["torch", "compile"]),
    default="torch",
    show_default=True,
    help="compile: torch.compile's code of torch's layer, beside torch itself.",
)
@click.option(
    "--rows",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only rows whose name has this in it; * and ? as in file names. May be given several times.",
)
@click.option(
    "--format", "format_", type=click.Choice([*bench.FORMATS, "both"]), default="both", show_default=True,
    help="Memory format of all tensors.",
)  # fmt: skip
@click.option(
    "--pass",
    "pass_",
    type=click.Choice(list(PASSES)),
    help="training: forward and all gradients; both: forward and training.  [default: both on the CPU, all on CUDA]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="About how long the timed calls of one line take; seven pairs are timed even so.",
)
@click.option("--repeats", type=click.IntRange(min=1), help="Time so many pairs of calls, whatever that takes.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of both libraries.  [default: torch's choice]")
@click.option("--algorithm", default="auto", show_default=True, help="A name from `convops info`.")
@click.option("--batch", type=click.IntRange(min=1), help="Pictures, of whole models.  [default: 4, 64 on CUDA]")
@click.option(
    "--image-size",
    type=click.IntRange(min=64),
    help="Height and width of pictures, of whole models.  [default: 160, 224 on CUDA]",
)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Count the peak memory of both libraries.")
@click.option("--overhead", "only_overhead", is_flag=True, help="Measure nothing but what an eager call costs.")
@click.option(
    "--choices",
    "only_choices",
    is_flag=True,
    help='Measure nothing but the algorithms: each that does a pass, against what "auto" takes.',
)
@click.option("--json", "json_file", type=_FILE, callback=_writable_file, help="Also write all results as JSON.")
@click.option("--plot", "plot_file", type=_FILE, callback=_picture_file, help="Also draw a roofline: a .png or .svg.")
@click.option(
    "--markdown",
    "markdown_file",
    type=_FILE,
    callback=_writable_file,
    help="Also write a Markdown page. Of a page that was written so, what is above the command stays.",
)
@click.pass_context
def command(ctx: click.Context, /, **arguments: Any) -> None:
    """Time the operators against torch's.

    Both libraries run by turns in this process on the same random data, after their results were compared. Ratios
    are torch's time over ours. Peak memory is counted in processes of its own. The call overhead is measured too,
    unless --rows or --suite name something else.
    """
    options = Options(**arguments)
    if options.device == "cuda":
        _require_cuda()
    _check_combination(options, ctx)
    jobs = _jobs(options)
    with _threads(options.threads):
        report = _run(jobs, options)
    console = make_console()
    for table in tables(report):
        print_table(console, table)
    for line in (*report.remarks, *report.skipped, *compile_failures(report)):
        console.print(line, soft_wrap=True)
    for line in report.problems:
        console.print(line, style="red", soft_wrap=True)
    if options.json_file:
        options.json_file.write_text(json.dumps(as_json(report), indent=2) + "\n")
    if options.plot_file and report.measurements and report.ceilings:
        _plot(report, report.ceilings, options.plot_file)
    if options.markdown_file:
        _write_markdown(report, options)
    if report.problems:
        raise click.exceptions.Exit(1)


@dataclass(frozen=True)
class Options:
    """The command's arguments, by the names of its options."""

    device: str
    dtype: str | None
    suites: tuple[str, ...]
    peer: str
    patterns: tuple[str, ...]
    format_: str
    pass_: str | None
    seconds: float
    repeats: int | None
    threads: int | None
    algorithm: str
    batch: int | None
    image_size: int | None
    memory: bool
    only_overhead: bool
    only_choices: bool
    json_file: Path | None
    plot_file: Path | None
    markdown_file: Path | None

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype or DEFAULT_DTYPE[self.device])
        return dtype

    @property
    def has_rows(self) -> bool:
        return bool({"core", "all"} & set(self.suites))

    @property
    def has_models(self) -> bool:
        return "models" in self.suites

    @property
    def passes(self) -> tuple[str, ...]:
        if self.only_choices:
            return tuple(p for p in PASSES[self.pass_ or "all"] if p in bench.choices.PASSES)
        return PASSES[self.pass_ or DEFAULT_PASS[self.device]]

    @property
    def place(self) -> dict[str, Any]:
        return {"dtype": self.torch_dtype, "device": self.device}

    @property
    def effort(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "repeats": self.repeats}


# --- arguments ---


def _require_cuda() -> None:
    build = build_info()
    if not build.cuda_archs:
        raise click.UsageError(f"the library has no CUDA ({build.no_cuda_reason})")
    if not torch.cuda.is_available():
        raise click.UsageError(NO_DEVICE)


def _check_combination(options: Options, ctx: click.Context) -> None:
    def given(name: str) -> bool:
        return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT

    for mode, chosen, refused in (
        ("--overhead", options.only_overhead, ("only_choices", "suites", "peer", "patterns", "algorithm", "plot_file")),
        ("--choices", options.only_choices, ("peer", "algorithm", "plot_file")),
        ("--suite models", options.has_models, ("algorithm",)),
    ):
        for name in refused:
            if chosen and given(name):
                flag = next(param.opts[0] for param in ctx.command.params if param.name == name)
                raise click.UsageError(f"{mode} does not go with {flag}")
    if options.only_choices and options.has_models:
        raise click.UsageError("--choices does not go with --suite models")
    if not options.has_models and (given("batch") or given("image_size")):
        raise click.UsageError("--batch and --image-size are for --suite models")
    if not options.has_rows and given("plot_file"):
        raise click.UsageError("--plot is of rows, which --suite models has none of")


def _select(names: list[str], patterns: Sequence[str]) -> list[str]:
    if not patterns:
        return names
    selected: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if fnmatchcase(name.lower(), f"*{pattern.lower()}*")}
        if not matching:
            known = ", ".join(map(repr, names))
            raise click.BadParameter(f"no row matches {pattern!r}; the rows are {known}", param_hint="'--rows'")
        selected |= matching
    return [name for name in names if name in selected]


def _with_algorithm(rows: list[bench.Row], algorithm: str, device: str) -> list[bench.Row]:
    """The rows whose operator has the algorithm."""
    if algorithm == "auto":
        return rows
    having = {operator for operator in OPERATORS if algorithm in algorithms(operator, device)}
    kept = [row for row in rows if row.operator in having]
    if rows and not kept:
        known = sorted({name for row in rows for name in algorithms(row.operator, device)})
        raise click.BadParameter(
            f"no chosen row has an algorithm {algorithm!r}; there are {', '.join(known)}", param_hint="'--algorithm'"
        )
    return kept


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- the run ---


@dataclass(frozen=True)
class Job:
    """One line of a table: what it is of, what finds it out, and where the report has it (nowhere, if it is None)."""

    line: str
    measure: Callable[[], Any]
    results: Callable[[Report], list[Any]]


def _jobs(options: Options) -> list[Job]:
    if options.only_overhead:
        return []
    rows = bench.rows(options.device) if options.has_rows else []
    rows += bench.wider_rows(options.device) if "all" in options.suites else []
    models = list(bench.MODELS) if options.has_models else []
    selected = _select([row.name for row in rows] + models, options.patterns)
    rows = _with_algorithm([row for row in rows if row.name in selected], options.algorithm, options.device)
    models = [model for model in models if model in selected]
    formats = list(bench.FORMATS) if options.format_ == "both" else [options.format_]
    passes = [pass_ for pass_ in bench.PASSES if pass_ in options.passes]
    jobs = [_row_job(row, f, p, options) for row in rows for f in formats for p in passes if p in row.passes]
    jobs += [
        _model_job(model, f, p, options)
        for model in models
        for f in formats
        for p in passes
        if p in bench.models.PASSES
    ]
    if not jobs:
        raise click.UsageError(f"none of these rows has a {options.pass_} pass")
    return jobs


def _row_job(row: bench.Row, format_: str, pass_: str, options: Options) -> Job:
    line = f"{row.name}, {format_}, {pass_}"
    common: dict[str, Any] = {"format": format_, **options.place, **options.effort}
    if options.only_choices:
        return Job(line, lambda: bench.measure_choice(row, pass_, **common), lambda report: report.choices)
    extent: dict[str, Any] = {
        "compiled": options.peer == "compile",
        "memory": options.memory,
        "algorithm": options.algorithm,
    }
    return Job(line, lambda: bench.measure(row, pass_, **common, **extent), lambda report: report.measurements)


def _model_job(model: str, format_: str, pass_: str, options: Options) -> Job:
    size: dict[str, Any] = {
        "batch": options.batch or DEFAULT_BATCH[options.device],
        "image_size": options.image_size or DEFAULT_IMAGE_SIZE[options.device],
    }
    common: dict[str, Any] = {"format": format_, **options.place, **options.effort}
    return Job(
        f"{model}, {format_}, {pass_}",
        lambda: bench.measure_model(model, pass_, **size, **common, compiled=options.peer == "compile"),
        lambda report: report.models,
    )


def _run(jobs: list[Job], options: Options) -> Report:
    settings: dict[str, Any] = {"dtype": str(options.torch_dtype).removeprefix("torch."), "device": options.device}
    settings |= {"algorithm": options.algorithm, **options.effort}
    if options.device == "cuda":
        settings["tf32"] = torch.backends.cudnn.allow_tf32
    context = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(options.device),
        "versions": versions(),
        "settings": settings,
    }
    needs_ceilings = bool(jobs) and options.has_rows and not options.only_choices
    report = Report(context, bench.measure_ceilings(options.device, options.torch_dtype) if needs_ceilings else None)
    with _progress() as progress, _until_interrupted(report):
        task = progress.add_task("", total=len(jobs))
        without_choice = 0
        for job in jobs:
            progress.update(task, description=job.line)
            try:
                result = job.measure()
                if result is None:
                    without_choice += 1
                else:
                    job.results(report).append(result)
            except bench.WrongResultError as error:
                report.problems.append(f"{job.line}: wrong result: {error}")
            except bench.UnsupportedError:
                report.skipped.append(f"{job.line}: not done by algorithm {options.algorithm!r}")
            progress.advance(task)
        if without_choice:
            report.remarks.append(f"{without_choice} more passes have one algorithm each: nothing to choose")
        if options.only_overhead or (options.has_rows and not options.patterns and not options.only_choices):
            progress.update(task, description="call overhead")
            report.overhead.extend(bench.measure_overhead(options.device))
    return report


@contextmanager
def _until_interrupted(report: Report) -> Iterator[None]:
    """What is measured when Ctrl-C comes is reported all the same."""
    try:
        yield
    except KeyboardInterrupt:
        report.problems.append("interrupted: the rows that follow were not measured")


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


# --- files ---


def _plot(report: Report, ceilings: bench.Ceilings, path: Path) -> None:
    from ..bench.plot import plot  # matplotlib takes a second to import

    facts, settings = report.context["machine"], report.context["settings"]
    machine_ = facts.get("gpu") or f"{facts['cpu']}, threads: {facts['threads']}"
    plot(report.measurements, ceilings, path, f"{settings['dtype']} on {machine_}")


def _write_markdown(report: Report, options: Options) -> None:
    path = options.markdown_file
    assert path is not None
    picture = options.plot_file
    link = Path(os.path.relpath(picture, path.parent)).as_posix() if picture else None
    before = path.read_text() if path.exists() else ""
    path.write_text(as_markdown(report, _command_line(), link, before))


def _command_line() -> str:
    """What was typed, as it is typed."""
    context = click.get_current_context()
    words = ["convops", "bench"]
    for param in context.command.params:
        if context.get_parameter_source(param.name or "") is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[param.name or ""]
        if isinstance(value, bool):
            words.append(param.opts[0] if value else param.secondary_opts[0])
        else:
            for word in value if isinstance(value, tuple) else (value,):
                words += [param.opts[0], str(word)]
    return shlex.join(words)
