"""Files of another shape than a row for each line of an order or each product, brought into that shape.

A column map says so with `renames`, `footer`, `groups`, `lines`, `parents` and `composed`; see `ingest.options`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from recllm.base.errors import IngestError
from recllm.shop.ingest.column_names import normal
from recllm.shop.ingest.options import ColumnMap, ComposedColumn, OrderLines, ParentRows, RepeatedColumns
from recllm.shop.ingest.read.records import BadRecord, Chunk, RecordReader

_KEY, _ROW, _CELL = "(key)", "(row)", "(cell)"


def rearranged(reader: RecordReader, column_map: ColumnMap, file: str) -> RecordReader:
    """The reader with a row for each line of an order, and variants with what they have from their product.

    Raises `IngestError` E_MISSING_COLUMN.
    """
    if column_map.renames:
        reader = _renamed(reader, column_map.renames)
    if column_map.footer is not None:
        reader = _without_footer(reader, column_map.footer)
    if column_map.groups is not None:
        reader = _with_groups(reader, column_map.groups)
    if column_map.lines is not None:
        reader = _with_lines(reader, column_map.lines, file)
    if column_map.parents is not None:
        reader = _with_parents(reader, column_map.parents, file, optional=column_map.optional)
    return reader


def _renamed(reader: RecordReader, renames: Mapping[str, str]) -> RecordReader:
    """Columns under the names by which the map knows them. A name that another column has is not given again."""
    names: dict[str, str] = {}
    for column in reader.columns:
        name = renames.get(column, column)
        is_free = name not in reader.columns and name not in names.values()
        names[column] = name if is_free else column

    return reader.mapped(lambda chunk: replace(chunk, frame=chunk.frame.rename(names)), [*names.values()])


def _with_groups(reader: RecordReader, rule: RepeatedColumns) -> RecordReader:
    """A row for each number of the repeated columns under which something stands; a row without any stays one
    row. Their names win over those of the other columns."""
    numbered: dict[int, dict[str, str]] = {}
    for column in reader.columns:
        if match := re.search(rule.columns, column):
            numbered.setdefault(int(match[2]), {})[match[1]] = column
    names = list(dict.fromkeys(name for group in numbered.values() for name in group))
    repeated = {column for group in numbered.values() for column in group.values()}
    others = [column for column in reader.columns if column not in repeated and column not in names]
    if not numbered:
        return reader

    def unfolded(chunk: Chunk) -> Chunk:
        rows = chunk.frame.with_row_index(_ROW)
        parts = []
        for _, group in sorted(numbered.items()):
            is_filled = pl.any_horizontal(pl.col(list(group.values())).str.strip_chars() != "")
            cells = [pl.col(column).alias(name) for name, column in group.items()]
            parts.append(rows.filter(is_filled).select(_ROW, *others, *cells))
        long = pl.concat(parts, how="diagonal")
        alone = rows.join(long, on=_ROW, how="anti").select(_ROW, *others)
        long = pl.concat([long, alone], how="diagonal").sort(_ROW, maintain_order=True)
        return chunk.with_rows(long[_ROW].to_numpy(), long.select(*others, *names))

    return reader.mapped(unfolded, [*others, *names])


def with_composed(reader: RecordReader, column_map: ColumnMap, file: str) -> RecordReader:
    """The reader with the columns that the map composes of others; what is `optional` and has none of its columns is
    left out, and a column of that name that the file has stays. Raises `IngestError` E_MISSING_COLUMN."""
    by_normal = {normal(column): column for column in reader.columns}
    added: dict[str, pl.Expr] = {}
    for name, rule in column_map.composed.items():
        present = [by_normal[normal(column)] for column in rule.columns if normal(column) in by_normal]
        if len(present) < len(rule.columns) and not column_map.optional:
            raise IngestError("E_MISSING_COLUMN", f"{file}: no column for {name}, of {', '.join(rule.columns)}")
        if present and normal(name) not in by_normal:
            added[name] = _composed(rule, present)
            by_normal[normal(name)] = name
    if not added:
        return reader

    def composed(chunk: Chunk) -> Chunk:
        frame = chunk.frame
        for name, column in added.items():
            frame = frame.with_columns(column.alias(name))
        return replace(chunk, frame=frame)

    return reader.mapped(composed, [*reader.columns, *added])


def _composed(rule: ComposedColumn, columns: list[str]) -> pl.Expr:
    cells = [pl.col(column).str.strip_chars() for column in columns]
    filled = [pl.when(cell != "").then(cell) for cell in cells]
    text = pl.concat_str(filled, separator=rule.separator, ignore_nulls=True)
    text = pl.when(text != "").then(text)
    if rule.matches is not None:
        text = pl.when(text.str.contains(rule.matches)).then(text.str.replace(rule.matches, rule.text))
    return text


def _without_footer(reader: RecordReader, pattern: str) -> RecordReader:
    """Lines of another width that the pattern matches are left out by the map, and are no mistakes."""

    def named(record: BadRecord) -> BadRecord:
        is_footer = record.code == "E_FIELD_COUNT" and re.search(pattern, record.raw) is not None
        return replace(record, code="E_MAP_REJECT", message="no row, by the map's footer") if is_footer else record

    return reader.mapped(lambda chunk: replace(chunk, bad=tuple(map(named, chunk.bad))))


def _with_lines(reader: RecordReader, lines: OrderLines, file: str) -> RecordReader:
    """A row for each cell with a line of an order: the other columns as they are, and those of its parts. What has no
    such cell stays one row, with empty parts."""
    cells = [column for column in reader.columns if re.search(lines.columns, column)]
    if not cells:
        raise IngestError("E_MISSING_COLUMN", f"{file}: no column whose name is matched by {lines.columns}")
    others = [column for column in reader.columns if column not in cells]

    separator = re.escape(lines.separator)
    cells_of_lines = [
        pl.col(_CELL).str.extract(rf"(?s)(?:^|{separator}){re.escape(name)}:(.*?)(?:{separator}|$)").alias(column)
        for name, column in lines.names.items()
    ]

    def unfolded(chunk: Chunk) -> Chunk:
        numbered = chunk.frame.with_row_index(_ROW)
        long = numbered.unpivot(cells, index=_ROW, variable_name=_KEY, value_name=_CELL)
        long = long.filter(pl.col(_CELL).str.strip_chars() != "")
        empty = numbered.join(long, on=_ROW, how="anti").select(_ROW)
        long = pl.concat([long.select(_ROW, _CELL), empty], how="diagonal").sort(_ROW, maintain_order=True)
        frame = long.join(numbered.select(_ROW, *others), on=_ROW, how="left", maintain_order="left")
        return chunk.with_rows(frame[_ROW].to_numpy(), frame.select(*others, *cells_of_lines))

    return reader.mapped(unfolded, [*others, *lines.names.values()])


def _with_parents(reader: RecordReader, rule: ParentRows, file: str, *, optional: bool) -> RecordReader:
    """Variants with the cells of their product where their own are empty, its key in a column, and its cells in columns
    such as "Name of the product". The rows of products are read once before, and kept."""
    by_normal = {normal(column): column for column in reader.columns}

    def present(*names: str | None) -> list[str]:
        missing = [name for name in filter(None, names) if normal(name) not in by_normal]
        if missing and not optional:
            raise IngestError("E_MISSING_COLUMN", f"{file}: no column {missing[0]}, which [parents] names")
        return [by_normal[normal(name)] for name in filter(None, names) if name not in missing]

    source = present(rule.named_by, rule.lists)
    keys = {column: before for name, before in rule.keys.items() for column in present(name)}
    columns = present(*rule.columns)
    if not source or not keys:
        return reader
    parent = rule.name or "parent row"
    stripped = {column: (pl.col(column).str.strip_chars(), before) for column, before in keys.items()}
    own_key = pl.coalesce([pl.when(key != "").then(before + key) for key, before in stripped.values()])
    matched = pl.col(source[0]).str.extract_all(rule.matches)
    products: list[pl.DataFrame] = []
    for chunk in reader.chunks():
        if rule.lists is not None:
            rows = chunk.frame.filter(pl.col(source[0]).str.strip_chars() != "")
            of_products = rows.select(matched.alias(_KEY), own_key.alias(parent), *columns).explode(_KEY)
            of_products = of_products.with_columns(pl.col(_KEY).str.extract(rule.matches).str.strip_chars())
        else:
            rows = chunk.frame.filter(~(pl.col(source[0]).str.strip_chars() != "").fill_null(False))
            of_products = pl.concat(
                rows.select((before + key).alias(_KEY), own_key.alias(parent), *columns)
                for key, before in stripped.values()
            )
        products.append(of_products.filter(pl.col(_KEY) != ""))
    lookup = pl.concat(products).unique(_KEY, keep="first", maintain_order=True) if products else pl.DataFrame()
    renamed = {column: f"{column} of the product" for column in columns}
    key = own_key if rule.lists is not None else pl.col(source[0]).str.extract(rule.matches).str.strip_chars()

    named = pl.coalesce(parent, _KEY) if rule.named_by is not None else pl.col(parent)
    filled = [
        pl.coalesce([pl.when(pl.col(column).str.strip_chars() != "").then(column), pl.col(of_product)]).alias(column)
        for column, of_product in renamed.items()
    ]

    def with_product(chunk: Chunk) -> Chunk:
        frame = chunk.frame.with_columns(key.alias(_KEY))
        frame = frame.join(lookup.rename(renamed), on=_KEY, how="left", maintain_order="left").with_columns(filled)
        return replace(chunk, frame=frame.select(*reader.columns, named.alias(parent), *renamed.values()))

    return reader.mapped(with_product, [*reader.columns, parent, *renamed.values()])
