"""Self-contained pages about a run or a person: no script, no style and no picture from elsewhere."""

from recllm.report.behaviour import prediction_page, write_prediction_png
from recllm.report.evolution import evolution_page, evolution_rows, write_png
from recllm.report.page import render_page, write_page

__all__ = [
    "evolution_page",
    "evolution_rows",
    "prediction_page",
    "render_page",
    "write_page",
    "write_png",
    "write_prediction_png",
]
