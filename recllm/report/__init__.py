"""One self-contained page about a run: no script, no style and no picture from elsewhere."""

from recllm.report.page import render_page, write_page

__all__ = ["render_page", "write_page"]
