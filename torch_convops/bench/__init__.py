"""Times the operators against torch's: rows to measure, one measurement, and what the machine could do at most."""

from .ceilings import Ceilings, measure_ceilings
from .measure import Measurement, UnsupportedError, WrongResultError, measure
from .overhead import Overhead, measure_overhead
from .rows import FORMATS, PASSES, Row, rows
from .summary import Summary, summarize

__all__ = [
    "FORMATS",
    "PASSES",
    "Ceilings",
    "Measurement",
    "Overhead",
    "Row",
    "Summary",
    "UnsupportedError",
    "WrongResultError",
    "measure",
    "measure_ceilings",
    "measure_overhead",
    "rows",
    "summarize",
]
