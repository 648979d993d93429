"""The console: what people of the shop see at `/` of `recllm serve`. Pages of Jinja2, which work without scripts.

A page is added in four steps.

1. A module here with a `ConsoleSection`: its name, its path, and a router whose functions take `TheVisit` (who asks,
   of which shop, in which language) and answer with `visit.page(template, ...)`. What computes runs in
   `visit.run(function)`.
2. A template in `templates/` that extends `frame.html.j2`; `parts.html.j2` has cards, tables, notices and forms. Every
   form has `{{ parts.csrf() }}`: one without it is refused. What htmx makes smoother has `{{ parts.hx(...) }}`, and the
   same link or form works without it. A table is a `console.tables.ConsoleTable` among the page's values, drawn
   by `parts.grid(table)`, which has it as a file too.
3. Its words in `recllm/base/words/en` and `zh`, under a table of its name, and `nav.<name>`; a large section has
   a file of its own, `<name>.toml`. A test holds both languages to the same keys and {braces}.
4. Its section in `SECTIONS` of `app.py`, which is the navigation, in its order.

`visit.require(scope)` refuses what the caller's key does not allow; `visit.may(scope)` says so beforehand, so that a
page leaves out what would be refused. An error of `errors` becomes a page with the remedy by itself. Whatever
changes something answers with `visit.back(path, "notice.key")` and is written to the shop's `console.jsonl`.
"""
