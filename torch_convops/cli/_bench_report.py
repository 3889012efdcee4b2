"""What ``convops bench`` found, as tables, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from rich import box
from rich.table import Table

from .. import bench
from ._tables import make_console, print_table

LOSS_FLAG = 0.15  # of the fastest algorithm's time
MARKER = "<!-- What follows is written by this command: -->"
Record: TypeAlias = "bench.Measurement | bench.ModelMeasurement | bench.Choice | bench.Summary | bench.Overhead"


@dataclass(frozen=True)
class Report:
    """Everything that a run found."""

    context: dict[str, Any]
    ceilings: bench.Ceilings | None
    measurements: list[bench.Measurement] = field(default_factory=list)
    models: list[bench.ModelMeasurement] = field(default_factory=list)
    choices: list[bench.Choice] = field(default_factory=list)
    overhead: list[bench.Overhead] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # wrong results
    skipped: list[str] = field(default_factory=list)  # what the algorithm asked for does not do
    remarks: list[str] = field(default_factory=list)


def tables(report: Report, table_box: box.Box = box.SIMPLE_HEAD) -> list[Table]:
    parts = []
    if report.measurements:
        parts.append(_measurements(report, table_box))
        if any(_needs_memory_line(m) for m in report.measurements):
            parts.append(_memory(report, table_box))
        parts.append(_summaries("torch / ours by operator family", bench.summarize(report.measurements), table_box))
    if report.models:
        parts.append(_models(report, table_box))
        parts.append(_summaries("torch / ours of whole models", _summary_of_models(report), table_box))
    if report.choices:
        parts.append(_choices(report, table_box))
    if report.overhead:
        parts.append(_overhead(report, table_box))
    return parts


def compile_failures(report: Report) -> list[str]:
    measurements: list[bench.Measurement | bench.ModelMeasurement] = [*report.measurements, *report.models]
    return [
        f"{m.row}, {m.format}, {m.pass_}: torch.compile failed: {m.compile_error}"
        for m in measurements
        if m.compile_error is not None
    ]


def _measurements(report: Report, table_box: box.Box) -> Table:
    ceilings = report.ceilings
    assert ceilings is not None
    settings = report.context["settings"]
    peer = _Peer(report.measurements)
    table = _table(
        f"{settings['dtype']} on {settings['device']}; ceilings: copy {ceilings.copy_bytes / 1e9:.1f} GB/s, "
        f"matmul {ceilings.matmul_flops / 1e9:.0f} GF/s",
        ("row", "N", "format", "pass"),
        ("ours ms", "torch ms", *peer.times, "torch / ours", *peer.ratios, "rate", "of ceiling"),
        table_box,
    )
    for m in report.measurements:
        rate, unit = (m.flops, "GF/s") if ceilings.is_bound_by_flops(m.flops, m.bytes) else (m.bytes, "GB/s")
        table.add_row(
            *(m.row, str(m.N), m.format, m.pass_),
            *(*peer.milliseconds(m), *peer.quotients(m)),
            f"{rate / m.ours_ms / 1e6:.1f} {unit}",
            f"{_share(m, ceilings):.0%}",
            style=_style(m.ratio),
        )
    return table


class _Peer:
    """The columns that every table of measurements has, with torch.compile's where it was asked for."""

    def __init__(self, measurements: Iterable[bench.Measurement | bench.ModelMeasurement]) -> None:
        asked_for = any(m.compile_ms is not None or m.compile_error is not None for m in measurements)
        self.times = ("torch.compile ms",) if asked_for else ()
        self.ratios = ("torch.compile / ours",) if asked_for else ()

    def milliseconds(self, m: bench.Measurement | bench.ModelMeasurement) -> list[str]:
        compiled = "failed" if m.compile_ms is None else f"{m.compile_ms:.3f}"
        return [f"{m.ours_ms:.3f}", f"{m.torch_ms:.3f}", *([compiled] if self.times else [])]

    def quotients(self, m: bench.Measurement | bench.ModelMeasurement) -> list[str]:
        compiled = "" if m.compile_ratio is None else f"{m.compile_ratio:.2f}"
        return [f"{m.ratio:.2f}", *([compiled] if self.ratios else [])]


def _style(ratio: float) -> str:
    return "yellow" if ratio < 1 else ""


def _share(m: bench.Measurement, ceilings: bench.Ceilings) -> float:
    return ceilings.floor_seconds(m.flops, m.bytes) * 1e3 / m.ours_ms


def _needs_memory_line(m: bench.Measurement) -> bool:
    return m.saved_bytes is not None or m.peak_bytes is not None


def _memory(report: Report, table_box: box.Box) -> Table:
    table = _table(
        "memory in MB: the most beyond the operands, and what is saved for backward",
        ("row", "N", "format", "pass"),
        ("peak, ours", "peak, torch", "torch / ours", "saved, ours", "saved, torch"),
        table_box,
    )
    for m in filter(_needs_memory_line, report.measurements):
        ratio = f"{m.torch_peak_bytes / m.peak_bytes:.2f}" if m.peak_bytes and m.torch_peak_bytes is not None else ""
        table.add_row(
            *(m.row, str(m.N), m.format, m.pass_),
            *(_mega(m.peak_bytes), _mega(m.torch_peak_bytes), ratio),
            *(_mega(m.saved_bytes), _mega(m.torch_saved_bytes)),
        )
    return table


def _mega(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def _summary_of_models(report: Report) -> list[bench.Summary]:
    """They are one family: that of all families is the same."""
    return [summary for summary in bench.summarize(report.models) if summary.family != "all"]


def _summaries(title: str, summaries: Sequence[bench.Summary], table_box: box.Box) -> Table:
    compiled = any(s.compile_geomean is not None for s in summaries)
    numbers = ("rows", "geomean", "worst", *(["geomean of torch.compile"] if compiled else []))
    table = _table(title, ("family", "format", "pass"), numbers, table_box)
    table.add_column("worst row")
    for s in summaries:
        geomean = "" if s.compile_geomean is None else f"{s.compile_geomean:.2f}"
        table.add_row(
            *(s.family, s.format, s.pass_, str(s.rows), f"{s.geomean:.2f}", f"{s.worst:.2f}"),
            *([geomean] if compiled else []),
            s.worst_row,
            style=_style(s.geomean),
        )
    return table


def _models(report: Report, table_box: box.Box) -> Table:
    peer = _Peer(report.models)
    size = report.models[0].image_size
    settings = report.context["settings"]
    table = _table(
        f"whole models, {size} x {size} pictures, {settings['dtype']} on {settings['device']}; forward: inference, "
        "training: a step",
        ("model", "N", "format", "pass"),
        ("layers swapped", "ours ms", "torch ms", *peer.times, "torch / ours", *peer.ratios, "error of outputs"),
        table_box,
    )
    for m in report.models:
        table.add_row(
            *(m.row, str(m.N), m.format, m.pass_, str(m.layers)),
            *(*peer.milliseconds(m), *peer.quotients(m), f"{m.error:.0e}"),
            style=_style(m.ratio),
        )
    return table


def _choices(report: Report, table_box: box.Box) -> Table:
    flagged = sum(c.loss > LOSS_FLAG for c in report.choices)
    table = _table(
        f'what "auto" takes; {flagged} of {len(report.choices)} lose more than {LOSS_FLAG:.0%}',
        ("row", "N", "format", "pass", "auto", "fastest"),
        ("auto's loss", ""),
        table_box,
    )
    table.add_column("all, ms")
    for c in report.choices:
        flag = "!" if c.loss > LOSS_FLAG else ""
        table.add_row(
            *(c.row, str(c.N), c.format, c.pass_, c.chosen, c.best, f"{c.loss:.0%}", flag),
            ", ".join(f"{name} {ms:.3f}" for name, ms in c.ms.items()),
            style="yellow" if flag else "",
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


def as_json(report: Report) -> dict[str, Any]:
    ceilings = report.ceilings
    return {
        **report.context,
        "ceilings": asdict(ceilings) if ceilings else None,
        "measurements": [
            {**_fields(m), "share_of_ceiling": _share(m, ceilings) if ceilings else None} for m in report.measurements
        ],
        "summary": [_fields(s) for s in bench.summarize(report.measurements)],
        "models": [_fields(m) for m in report.models],
        "models_summary": [_fields(s) for s in _summary_of_models(report)],
        "choices": [{**_fields(c), "flagged": c.loss > LOSS_FLAG} for c in report.choices],
        "overhead": [_fields(o) for o in report.overhead],
        "wrong": report.problems,
        "skipped": report.skipped,
        "remarks": report.remarks,
    }


def _fields(record: Record) -> dict[str, Any]:
    """``pass`` is a name that Python keeps for itself."""
    return {name.rstrip("_"): value for name, value in asdict(record).items()}


def as_markdown(report: Report, command: str, picture: str | None, before: str = "") -> str:
    """A page: what it has ``before`` the marker stays, what follows is this report.

    Args:
        command: what was run.
        picture: the plot, relative to the page.
        before: the page as it was.
    """
    context = report.context
    facts = {**context["machine"], **context["versions"], **context["settings"], "date": context["date"]}
    kept, marker, _ = before.partition(MARKER)
    parts = [kept.rstrip()] if marker else ["# Benchmarks"]
    parts += [
        MARKER,
        f"```sh\n{command}\n```",
        ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None),
    ]
    if picture:
        parts.append(f"![What each row reaches of the machine's ceilings]({picture})")
    for table in tables(report, box.MARKDOWN):
        parts.append(f"### {table.title}")
        table.title = None
        console = make_console()
        with console.capture() as capture:
            print_table(console, table)
        parts.append("\n".join(line.strip() for line in capture.get().strip().splitlines()))
    lines = [*compile_failures(report), *report.skipped, *report.problems, *report.remarks]
    if lines:
        parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"
