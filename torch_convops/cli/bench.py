"""``convops bench``: every row of the benchmark, against torch, with its share of what the machine can do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import algorithms, bench, build_info
from .._library import OPERATORS
from ..bench.machine import machine, versions
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


@dataclass(frozen=True)
class Report:
    """Everything that a run found."""

    context: dict[str, Any]
    ceilings: bench.Ceilings | None
    measurements: list[bench.Measurement]
    overhead: list[bench.Overhead]
    problems: list[str]  # rows that gave a wrong result
    skipped: list[str]  # passes that the algorithm asked for does not do


def _writable_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and not path.resolve().parent.is_dir():
        raise click.BadParameter(f"directory {path.parent} does not exist")
    return path


_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
    help="[default: float32 on the CPU, bfloat16 on CUDA]",
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
@click.option("--overhead", "only_overhead", is_flag=True, help="Measure nothing but what an eager call costs.")
@click.option("--json", "json_file", type=_FILE, callback=_writable_file, help="Also write all results as JSON.")
@click.option("--markdown", "markdown_file", type=_FILE, callback=_writable_file, help="Also write Markdown tables.")
def command(
    device: str, dtype: str | None, patterns: tuple[str, ...], format_: str, pass_: str | None, seconds: float,
    repeats: int | None, threads: int | None, algorithm: str, only_overhead: bool, json_file: Path | None,
    markdown_file: Path | None,
) -> None:  # fmt: skip
    """Time the operators against torch's.

    Both libraries run alternately in this process on the same random data, after their results were compared. Ratios
    are torch's time over ours. The call overhead is measured too, unless --rows names some rows.
    """
    if device == "cuda":
        _require_cuda()
    chosen = [] if only_overhead else _select(bench.rows(device), patterns)
    chosen = _with_algorithm(chosen, algorithm, device)
    formats = list(bench.FORMATS) if format_ == "both" else [format_]
    passes = PASSES[pass_ or DEFAULT_PASS[device]]
    jobs = [(row, f, p) for row in chosen for f in formats for p in bench.PASSES if p in passes and p in row.passes]
    if chosen and not jobs:
        raise click.UsageError(f"none of these rows has a {pass_} pass")
    options = {"dtype": getattr(torch, dtype or DEFAULT_DTYPE[device]), "device": device, "algorithm": algorithm}
    with _threads(threads):
        report = _run(jobs, options, {"seconds": seconds, "repeats": repeats}, with_overhead=not patterns)
    console = make_console()
    for table in _tables(report):
        print_table(console, table)
    for line in report.skipped:
        console.print(line, soft_wrap=True)
    for line in report.problems:
        console.print(line, style="red", soft_wrap=True)
    if json_file:
        json_file.write_text(json.dumps(_as_json(report), indent=2) + "\n")
    if markdown_file:
        markdown_file.write_text(_as_markdown(report))
    if report.problems:
        raise click.exceptions.Exit(1)


# --- arguments ---


def _require_cuda() -> None:
    build = build_info()
    if not build.cuda_archs:
        raise click.UsageError(f"the library has no CUDA ({build.no_cuda_reason})")
    if not torch.cuda.is_available():
        raise click.UsageError(NO_DEVICE)


def _select(rows: list[bench.Row], patterns: Sequence[str]) -> list[bench.Row]:
    if not patterns:
        return rows
    selected: list[bench.Row] = []
    for pattern in patterns:
        matching = [row for row in rows if fnmatchcase(row.name.lower(), f"*{pattern.lower()}*")]
        if not matching:
            names = ", ".join(f"'{row.name}'" for row in rows)
            raise click.BadParameter(f"no row matches {pattern!r}; the rows are {names}", param_hint="'--rows'")
        selected += matching
    return [row for row in rows if row in selected]


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


def _run(
    jobs: list[tuple[bench.Row, str, str]], options: dict[str, Any], effort: dict[str, Any], with_overhead: bool
) -> Report:
    device, dtype = options["device"], options["dtype"]
    settings = {**options, "dtype": str(dtype).removeprefix("torch."), **effort}
    if device == "cuda":
        settings["tf32"] = torch.backends.cudnn.allow_tf32
    context = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": versions(),
        "settings": settings,
    }
    report = Report(context, bench.measure_ceilings(device, dtype) if jobs else None, [], [], [], [])
    with _progress() as progress, _until_interrupted(report):
        task = progress.add_task("", total=len(jobs))
        for row, format_, pass_ in jobs:
            line = f"{row.name}, {format_}, {pass_}"
            progress.update(task, description=line)
            try:
                report.measurements.append(bench.measure(row, pass_, format=format_, **options, **effort))
            except bench.WrongResultError as error:
                report.problems.append(f"{line}: wrong result: {error}")
            except bench.UnsupportedError:
                report.skipped.append(f"{line}: not done by algorithm {options['algorithm']!r}")
            progress.advance(task)
        if with_overhead:
            progress.update(task, description="call overhead")
            report.overhead.extend(bench.measure_overhead(device))
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


# --- the report ---


def _tables(report: Report, table_box: box.Box = box.SIMPLE_HEAD) -> list[Table]:
    tables = []
    if report.measurements:
        tables += [_measurements(report, table_box), _summaries(report, table_box)]
    if report.overhead:
        tables.append(_overhead(report, table_box))
    return tables


def _measurements(report: Report, table_box: box.Box) -> Table:
    ceilings = report.ceilings
    assert ceilings is not None
    settings = report.context["settings"]
    trained = any(m.saved_bytes is not None for m in report.measurements)
    table = _table(
        f"{settings['dtype']} on {settings['device']}; ceilings: copy {ceilings.copy_bytes / 1e9:.1f} GB/s, "
        f"matmul {ceilings.matmul_flops / 1e9:.0f} GF/s",
        ("row", "N", "format", "pass"),
        ("ours ms", "torch ms", "torch / ours", "rate", "of ceiling", *(["saved MB, ours / torch"] if trained else [])),
        table_box,
    )
    for m in report.measurements:
        rate, unit = (m.flops, "GF/s") if ceilings.is_bound_by_flops(m.flops, m.bytes) else (m.bytes, "GB/s")
        saved = "" if m.saved_bytes is None else f"{_mega(m.saved_bytes)} / {_mega(m.torch_saved_bytes)}"
        table.add_row(
            *(m.row, str(m.N), m.format, m.pass_),
            *(f"{m.ours_ms:.3f}", f"{m.torch_ms:.3f}", f"{m.ratio:.2f}"),
            f"{rate / m.ours_ms / 1e6:.1f} {unit}",
            f"{_share(m, ceilings):.0%}",
            *([saved] if trained else []),
            style="yellow" if m.ratio < 1 else "",
        )
    return table


def _share(m: bench.Measurement, ceilings: bench.Ceilings) -> float:
    return ceilings.floor_seconds(m.flops, m.bytes) * 1e3 / m.ours_ms


def _mega(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def _summaries(report: Report, table_box: box.Box) -> Table:
    table = _table(
        "torch / ours by operator family",
        ("family", "format", "pass"),
        ("rows", "geomean", "worst"),
        table_box,
    )
    table.add_column("worst row")
    for s in bench.summarize(report.measurements):
        table.add_row(
            *(s.family, s.format, s.pass_, str(s.rows), f"{s.geomean:.2f}", f"{s.worst:.2f}", s.worst_row),
            style="yellow" if s.geomean < 1 else "",
        )
    return table


def _overhead(report: Report, table_box: box.Box) -> Table:
    title = "one eager call on a 1 x 1 x 4 x 4 image"
    table = _table(title, ("operator", "grad"), ("ours us", "torch us", "ours / torch"), table_box)
    for o in report.overhead:
        table.add_row(o.operator, "yes" if o.grad else "no", f"{o.ours_us:.1f}", f"{o.torch_us:.1f}", f"{o.ratio:.1f}")
    return table


def _table(title: str, labels: Sequence[str], numbers: Sequence[str], table_box: box.Box) -> Table:
    table = Table(title=title, box=table_box, title_justify="left")
    for heading in labels:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _as_json(report: Report) -> dict[str, Any]:
    ceilings = report.ceilings
    return {
        **report.context,
        "ceilings": asdict(ceilings) if ceilings else None,
        "measurements": [
            {**_fields(m), "share_of_ceiling": _share(m, ceilings) if ceilings else None} for m in report.measurements
        ],
        "summary": [_fields(s) for s in bench.summarize(report.measurements)],
        "overhead": [_fields(o) for o in report.overhead],
        "wrong": report.problems,
        "skipped": report.skipped,
    }


def _fields(record: bench.Measurement | bench.Summary | bench.Overhead) -> dict[str, Any]:
    """``pass`` is a name that Python keeps for itself."""
    return {name.rstrip("_"): value for name, value in asdict(record).items()}


def _as_markdown(report: Report) -> str:
    context = report.context
    facts = {**context["machine"], **context["versions"], **context["settings"], "date": context["date"]}
    console = make_console()
    parts = [", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)]
    for table in _tables(report, box.MARKDOWN):
        parts.append(f"### {table.title}")
        table.title = None
        with console.capture() as capture:
            print_table(console, table)
        parts.append("\n".join(line.strip() for line in capture.get().strip().splitlines()))
    return "\n\n".join(parts) + "\n"
