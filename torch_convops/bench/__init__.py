"""Times the operators against torch's: rows to measure, one measurement, and what the machine could do at most."""

from .ceilings import Ceilings, measure_ceilings
from .choices import Choice, measure_choice
from .measure import Measurement, UnsupportedError, WrongResultError, measure
from .memory import PeakMemory, measure_peak_memory
from .models import MODELS, ModelMeasurement, measure_model
from .overhead import Overhead, measure_overhead
from .rows import FORMATS, PASSES, Row, rows, wider_rows
from .summary import Summary, summarize

__all__ = [
    "FORMATS",
    "MODELS",
    "PASSES",
    "Ceilings",
    "Choice",
    "Measurement",
    "ModelMeasurement",
    "Overhead",
    "PeakMemory",
    "Row",
    "Summary",
    "UnsupportedError",
    "WrongResultError",
    "measure",
    "measure_ceilings",
    "measure_choice",
    "measure_model",
    "measure_overhead",
    "measure_peak_memory",
    "rows",
    "summarize",
    "wider_rows",
]
