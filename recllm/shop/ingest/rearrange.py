"""Files brought into the shape of a row for each line of an order, or each product.

A column map says so with `renames`, `footer`, `groups`, `lines`, `parents`, `carry`, `nothing`, `text_marks` and
`composed`; see `ingest.options`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import polars as pl

from recllm.base.errors import IngestError
from recllm.shop.ingest.column_names import normal
from recllm.shop.ingest.options import ColumnMap, ComposedColumn, OrderLines, ParentRows, RepeatedColumns
from recllm.shop.ingest.read.records import BadRecord, Chunk, RecordReader, filled

KEY, ROW, CELL = "(key)", "(row)", "(cell)"
"""Names of helper columns."""
FORMULA_TEXT = r'^="(.*)"$'
QUOTED_NUMBER = r"^['\x60](\d.*)$"
"""Marks of exports for cells of digits that are text."""


def rearranged(reader: RecordReader, column_map: ColumnMap, file: str) -> RecordReader:
    """The reader in the shape that the map needs. Raises `IngestError` E_MISSING_COLUMN."""
    if column_map.renames:
        reader = renamed(reader, column_map.renames)
    if column_map.footer is not None:
        reader = without_footer(reader, column_map.footer)
    if column_map.groups is not None:
        reader = with_groups(reader, column_map.groups)
    if column_map.lines is not None:
        reader = with_lines(reader, column_map.lines, file)
    if column_map.parents is not None:
        reader = with_parents(reader, column_map.parents, file, optional=column_map.optional)
    if column_map.carry is not None or column_map.nothing or column_map.text_marks:
        reader = with_carried_cells(reader, column_map, file)
    return with_composed(reader, column_map.composed, file, optional=column_map.optional)


def renamed(reader: RecordReader, renames: Mapping[str, str]) -> RecordReader:
    """Columns by the map's names for them; a name that another column has is not given again."""
    names: dict[str, str] = {}
    for column in reader.columns:
        name = renames.get(column, column)
        is_free = name not in reader.columns and name not in names.values()
        names[column] = name if is_free else column
    return reader.with_frames(lambda frame: frame.rename(names), [*names.values()])


def with_groups(reader: RecordReader, rule: RepeatedColumns) -> RecordReader:
    """A row for each number of the repeated columns with anything; a row without any stays one. Their names win over
    those of the other columns."""
    numbered: dict[int, dict[str, str]] = {}
    for column in reader.columns:
        if match := re.search(rule.columns, column):
            numbered.setdefault(int(match[2]), {})[match[1]] = column
    if not numbered:
        return reader
    names = list(dict.fromkeys(name for group in numbered.values() for name in group))
    repeated = {column for group in numbered.values() for column in group.values()}
    others = [column for column in reader.columns if column not in repeated and column not in names]

    def unfolded(chunk: Chunk) -> Chunk:
        rows = chunk.frame.with_row_index(ROW)
        parts = []
        for _, group in sorted(numbered.items()):
            is_filled = pl.any_horizontal(pl.col(list(group.values())).str.strip_chars() != "")
            cells = [pl.col(column).alias(name) for name, column in group.items()]
            parts.append(rows.filter(is_filled).select(ROW, *others, *cells))
        long = pl.concat(parts, how="diagonal")
        return unfolded_chunk(chunk, long, rows.select(ROW, *others), [*others, *names])

    return reader.mapped(unfolded, [*others, *names])


def unfolded_chunk(chunk: Chunk, long: pl.DataFrame, rows: pl.DataFrame, columns: list[str]) -> Chunk:
    """The rows of `long`, and of `rows` those of which none was made; both have `ROW`."""
    alone = rows.join(long, on=ROW, how="anti")
    long = pl.concat([long, alone], how="diagonal").sort(ROW, maintain_order=True)
    return chunk.with_rows(long[ROW].to_numpy(), long.select(columns))


def with_composed(
    reader: RecordReader, rules: Mapping[str, ComposedColumn], file: str, *, optional: bool
) -> RecordReader:
    """The reader with the columns that the map composes, except optional ones of absent columns, and names that the
    file has. Raises `IngestError` E_MISSING_COLUMN."""
    by_normal = {normal(column): column for column in reader.columns}
    added: list[pl.Expr] = []
    for name, rule in rules.items():
        present = [by_normal[normal(column)] for column in rule.columns if normal(column) in by_normal]
        if len(present) < len(rule.columns) and not optional:
            raise IngestError("E_MISSING_COLUMN", f"{file}: no column for {name}, of {', '.join(rule.columns)}")
        if present and normal(name) not in by_normal:
            text = pl.concat_str(map(filled, present), separator=rule.separator, ignore_nulls=True)
            text = pl.when(text != "").then(text)
            if rule.matches is not None:
                text = pl.when(text.str.contains(rule.matches)).then(text.str.replace(rule.matches, rule.text))
            added.append(text.alias(name))
            by_normal[normal(name)] = name
    if not added:
        return reader

    def composed(frame: pl.DataFrame) -> pl.DataFrame:
        for column in added:  # one may be made of those before it
            frame = frame.with_columns(column)
        return frame

    return reader.with_frames(composed, [*reader.columns, *(column.meta.output_name() for column in added)])


def without_footer(reader: RecordReader, pattern: str) -> RecordReader:
    """Lines of another width that the pattern matches are left out, and no mistakes."""

    def named(record: BadRecord) -> BadRecord:
        is_footer = record.code == "E_FIELD_COUNT" and re.search(pattern, record.raw) is not None
        return replace(record, code="E_MAP_REJECT", message="no row, by the map's footer") if is_footer else record

    return reader.mapped(lambda chunk: replace(chunk, bad=tuple(map(named, chunk.bad))))


def with_lines(reader: RecordReader, lines: OrderLines, file: str) -> RecordReader:
    """A row for each cell with a line of an order, with the columns of its parts. A row without stays one, with empty
    parts."""
    cells = [column for column in reader.columns if re.search(lines.columns, column)]
    if not cells:
        raise IngestError("E_MISSING_COLUMN", f"{file}: no column whose name is matched by {lines.columns}")
    others = [column for column in reader.columns if column not in cells]
    separator = re.escape(lines.separator)
    cells_of_lines = [
        pl.col(CELL).str.extract(rf"(?s)(?:^|{separator}){re.escape(name)}:(.*?)(?:{separator}|$)").alias(column)
        for name, column in lines.names.items()
    ]
    columns = [*others, *lines.names.values()]

    def unfolded(chunk: Chunk) -> Chunk:
        rows = chunk.frame.with_row_index(ROW)
        long = rows.unpivot(cells, index=ROW, variable_name=KEY, value_name=CELL).filter(
            pl.col(CELL).str.strip_chars() != ""
        )
        rows = rows.select(ROW, *others)
        long = long.join(rows, on=ROW, how="left", maintain_order="left").with_columns(cells_of_lines)
        return unfolded_chunk(chunk, long, rows, columns)

    return reader.mapped(unfolded, columns)


def with_parents(reader: RecordReader, rule: ParentRows, file: str, *, optional: bool) -> RecordReader:
    """Variants with their product's cells where their own are empty, its key in a column, and its cells in columns such
    as "Name of the product". The rows of products are read once before, and kept."""
    by_normal = {normal(column): column for column in reader.columns}

    def present(*names: str | None) -> list[str]:
        missing = [name for name in filter(None, names) if normal(name) not in by_normal]
        if missing and not optional:
            raise IngestError("E_MISSING_COLUMN", f"{file}: no column {missing[0]}, which [parents] names")
        return [by_normal[normal(name)] for name in filter(None, names) if name not in missing]

    sources = present(rule.named_by, rule.lists)
    keys = [before + filled(column) for name, before in rule.keys.items() for column in present(name)]
    columns = present(*rule.columns)
    if not sources or not keys:
        return reader
    parent, own_key, source = rule.name or "parent row", pl.coalesce(keys), pl.col(sources[0])
    key_of_variant = pl.col(KEY).str.extract(rule.matches).str.strip_chars()
    has_source = (source.str.strip_chars() != "").fill_null(False)
    products: list[pl.DataFrame] = []
    for chunk in reader.chunks():
        if rule.lists is not None:
            rows = chunk.frame.filter(has_source)
            named = rows.select(source.str.extract_all(rule.matches).alias(KEY), own_key.alias(parent), *columns)
            products.append(named.explode(KEY).with_columns(key_of_variant))
        else:
            rows = chunk.frame.filter(~has_source)
            products += (rows.select(key.alias(KEY), own_key.alias(parent), *columns) for key in keys)
    lookup = pl.concat(products) if products else pl.DataFrame()
    of_product = {column: f"{column} of the product" for column in columns}
    if products:
        lookup = lookup.filter(pl.col(KEY) != "").unique(KEY, keep="first", maintain_order=True).rename(of_product)
    key = own_key.alias(KEY) if rule.lists is not None else source.alias(KEY)
    own_cells = {column: pl.when(pl.col(column).str.strip_chars() != "").then(column) for column in columns}
    cells = [pl.coalesce(cell, of_product[column]).alias(column) for column, cell in own_cells.items()]

    def with_product(frame: pl.DataFrame) -> pl.DataFrame:
        frame = frame.with_columns(key)
        if rule.named_by is not None:
            frame = frame.with_columns(key_of_variant)
        frame = frame.join(lookup, on=KEY, how="left", maintain_order="left").with_columns(cells)
        named = pl.coalesce(parent, KEY) if rule.named_by is not None else pl.col(parent)
        return frame.select(*reader.columns, named.alias(parent), *of_product.values())

    return reader.with_frames(with_product, [*reader.columns, parent, *of_product.values()])


def with_carried_cells(reader: RecordReader, column_map: ColumnMap, file: str) -> RecordReader:
    """Applies `carry`, `nothing` and `text_marks`. Raises `IngestError` E_MISSING_COLUMN."""
    carry, nothing = column_map.carry, list(column_map.nothing)
    by_normal = {normal(column): column for column in reader.columns}
    names = [] if carry is None else [carry.by, *carry.columns]
    missing = [name for name in names if normal(name) not in by_normal]
    if missing and not column_map.optional:
        raise IngestError("E_MISSING_COLUMN", f"{file}: no column {missing[0]}; found {', '.join(reader.columns[:30])}")
    key = by_normal.get(normal(carry.by)) if carry is not None else None
    carried = [by_normal[normal(name)] for name in names[1:] if normal(name) in by_normal]

    def chunks() -> Iterator[Chunk]:
        before: pl.DataFrame | None = None
        for chunk in reader.chunks():
            frame = chunk.frame
            if column_map.text_marks:
                bare = pl.all().str.strip_chars().str.replace(FORMULA_TEXT, "$1").str.replace(QUOTED_NUMBER, "$1")
                frame = frame.with_columns(bare.str.strip_chars())
            if nothing:
                frame = frame.with_columns(pl.when(~pl.all().str.strip_chars().is_in(nothing)).then(pl.all()))
            if key is not None and frame.height:
                rows = frame if before is None else pl.concat([before, frame])
                run = (pl.col(key) != pl.col(key).shift(1)).fill_null(True).cum_sum()
                rows = rows.with_columns(pl.col(column).forward_fill().over(run) for column in carried)
                before, frame = rows.tail(1), rows.tail(frame.height)
            yield replace(chunk, frame=frame)

    return replace(reader, chunks=chunks)
