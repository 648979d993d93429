"""The console: the shop's pages at `/` of `recllm serve`, by Jinja2; they work without scripts.

A page is added in four steps.

1. A module here with a `ConsoleSection`: its name, its path, and a router with the route class `PageRoute`, whose
   functions take `TheVisit` (caller, shop, language), run in a worker and return `visit.page(template, ...)`.
2. A template in `templates/` that extends `frame.html.j2`; `parts.html.j2` has cards, tables and notices, and
   `hx(...)` for a link or form that also works without it. A table is declared in `tables.toml`, made by `visit.table`
   and drawn by `parts.grid(table)`.
3. Its words in `recllm/base/words/en` and `zh`, under a table of its name, and `nav.<name>`.
4. Its section in `SECTIONS` of `app.py`, which is the navigation, in its order.
"""
