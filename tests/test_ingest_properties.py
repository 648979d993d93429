"""What must hold for every file: the account adds up, replays change nothing, only errors of the tree escape."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from dirty import Style, plant
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from store_view import refused_rows, view

from recllm.base.errors import DataError
from recllm.base.policy import Policy
from recllm.shop.ingest.load import ingest_file
from recllm.shop.ingest.options import IngestOptions
from recllm.shop.ingest.parse.numbers import parse_numbers
from recllm.shop.ingest.parse.times import TimeFormat, parse_times
from recllm.shop.ingest.read.delimited import open_delimited
from recllm.shop.ingest.read.records import read_blocks
from recllm.shop.ingest.read.source import Decoding, probe
from recllm.shop.ingest.record import Occurrences
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import Pseudonymiser

KEY = Pseudonymiser(b"0123456789abcdef")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LENIENT = Policy(reject_limit=1.0)
OPTIONS = IngestOptions(now=NOW, tz="UTC")


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rows(n: int, seed: int) -> list[tuple[str, str, str, str, str, str]]:
    rng = random.Random(seed)
    start = datetime(2024, 1, 1)
    return [
        (
            f"u{rng.randrange(9)}",
            f"item {rng.randrange(20)}",
            (start + timedelta(minutes=rng.randrange(500_000))).strftime("%Y-%m-%d %H:%M:%S"),
            str(rng.randint(1, 5)),
            f"{rng.randint(1, 99)}.{rng.randint(10, 99)}",
            f"b{i // 4}",
        )
        for i in range(n)
    ]


@functools.cache
def scratch() -> Store:
    """One empty store for all dry runs: making one takes longer than a small load."""
    folder = tempfile.mkdtemp(prefix="recllm-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Store.open(Path(folder) / "s.sqlite", create=True)


def dry(path: Path, *, options: IngestOptions = OPTIONS, folder: Path | None = None):
    return ingest_file(
        path,
        "events",
        store=scratch(),
        pseudonymiser=KEY,
        policy=LENIENT,
        options=options,
        quarantine_dir=folder,
        dry_run=True,
    )


@examples(30)
@given(
    n=st.integers(20, 60),
    seed=st.integers(0, 10_000),
    delimiter=st.sampled_from(",;\t|"),
    newline=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([2048, 1 << 20]),
)
def test_planted_defects_are_found_exactly(n: int, seed: int, delimiter: str, newline: str, block: int) -> None:
    decimal = "," if delimiter != "," and seed % 2 else "."
    style = Style(delimiter=delimiter, decimal=decimal, newline=newline)
    found = plant(rows(n, seed), style, n // 20, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.csv"
        path.write_bytes(found.text.encode())
        options = IngestOptions(now=NOW, tz="UTC", delimiter=delimiter, decimal=decimal, block_bytes=block)
        report = dry(path, options=options, folder=Path(folder))
        lines = refused_rows(report)
    assert report.read == n == report.accepted + report.duplicates + report.quarantined
    assert {line["line_no"]: line["code"] for line in lines} == dict(found.codes)
    assert report.accepted == len(found.clean)
    original_lines = found.text.split("\n")
    for line in lines:
        assert line["raw"].startswith(original_lines[line["line_no"] - 1].rstrip("\r")[:200])
        assert line["record_no"] == line["line_no"]


@examples(30)
@given(data=st.binary(max_size=400), name=st.sampled_from(["a.csv", "a.json", "a.csv.gz", "a.parquet", "a"]))
@example(data=b"PAR1" + b"\0" * 40 + b"PAR1", name="a.parquet")
@example(data=b'user_id,item_id,timestamp\n"', name="a.csv")
@example(data=b"\xff\xfe", name="a.csv")
@example(data=b"\xff\xfeu", name="a.csv")
@example(data=b"{}\n{}", name="a.json")
def test_only_ingest_errors_escape(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for options in (OPTIONS, IngestOptions(now=NOW, tz="UTC", encoding="gb18030")):
            try:
                report = dry(path, options=options)
            except DataError:
                continue
            assert report.read == report.accepted + report.duplicates + report.quarantined


@examples(30)
@given(
    data=st.lists(
        st.lists(st.sampled_from(['"', '""', "a", ",", "\n", "\r\n", ";", "é", "", "1", "\t"]), max_size=12),
        max_size=12,
    ),
    block=st.sampled_from([128, 1 << 16]),
)
def test_any_text_behind_a_header_keeps_the_account(data: list[list[str]], block: int) -> None:
    body = "\n".join("".join(line) for line in data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(("user_id,item_id,timestamp,price\n" + body).encode())
        options = IngestOptions(now=NOW, tz="UTC", delimiter=",", decimal=".", block_bytes=block)
        report = dry(path, options=options, folder=Path(folder))
        assert report.read == report.accepted + report.duplicates + report.quarantined
        numbers = [row["record_no"] for row in refused_rows(report)]
        assert len(numbers) == report.quarantined
        assert numbers == sorted(set(numbers))


@examples(30)
@given(
    cells=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)] * 3), max_size=20
    ),
    block=st.sampled_from([64, 100, 1 << 16]),
)
def test_what_the_csv_module_writes_is_read_back(cells: list[tuple[str, str, str]], block: int) -> None:
    import csv
    import io

    cells = [c for c in cells if any(c) and not any("\n" in cell for cell in c[:2])]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("x", "y", "z"), *cells])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text.getvalue().encode())
        source = probe(path)
        reader = open_delimited(lambda: read_blocks(source, Decoding(encoding="utf-8"), block), source, ",")
        chunks = list(reader.chunks())
    assert not [b for c in chunks for b in c.bad if b.code != "E_REPEATED_HEADER"]
    read = [tuple(cell or "" for cell in row) for c in chunks for row in c.frame.iter_rows()]
    assert read == [c for c in cells if tuple(cell.strip() for cell in c) != ("x", "y", "z")]


@examples(30)
@given(seed=st.integers(0, 1000), n=st.integers(1, 60))
def test_block_size_does_not_matter(seed: int, n: int) -> None:
    rng = random.Random(seed)
    words = ['"a\nb"', "x", '"q""q"', "é", '"open', "1,5", '5" pipe', ""]
    body = "\n".join(",".join(rng.choice(words) for _ in range(3)) for _ in range(n)).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(b"x,y,z\n" + body + b"\n")
        source = probe(path)

        def read(size: int):
            reader = open_delimited(lambda: read_blocks(source, Decoding(encoding="utf-8"), size), source, ",")
            chunks = list(reader.chunks())
            good = [(c.bad_row(i, None, "", ""), c.frame.row(i)) for c in chunks for i in range(c.frame.height)]
            numbers, n_before = [], reader.header_records
            for c in chunks:
                lines = np.array([*c.line_no, *(b.line_no for b in c.bad)], np.int64)
                numbers += [
                    (int(line), n_before + 1 + int(n)) for line, n in zip(lines, c.positions(lines), strict=True)
                ]
                n_before += c.n_records
            bad = sorted((b.line_no, b.code, b.raw) for c in chunks for b in c.bad)
            return good, bad, sorted(numbers)

        assert read(64) == read(1 << 20)


@examples(10)
@given(seed=st.integers(0, 1000), repeats=st.integers(1, 3))
def test_replay_changes_nothing(tmp_path_factory: pytest.TempPathFactory, seed: int, repeats: int) -> None:
    folder = tmp_path_factory.mktemp("replay")
    store = Store.open(folder / "s.sqlite", create=True)
    body = rows(30, seed) + rows(5, seed)
    rng = random.Random(seed)
    header = "user_id,item_id,timestamp,quantity,price,basket_id"
    for turn in range(repeats + 1):
        rng.shuffle(body)
        path = folder / f"{turn}.csv"
        path.write_text("\n".join([header, *map(",".join, body)]) + "\n")
        report = ingest_file(path, "events", store=store, pseudonymiser=KEY, policy=LENIENT, options=OPTIONS)
        assert (report.accepted, report.duplicates) == ((35, 0) if turn == 0 else (0, 35))
    assert view(store).counts()["events"] == 35
    store.close()


@examples(30)
@given(values=st.lists(st.lists(st.sampled_from([*range(4), 2**58, 2**63, 2**64 - 1]), max_size=8), max_size=9))
def test_occurrences_count_like_a_dictionary(values: list[list[int]]) -> None:
    counter, seen = Occurrences(), dict[int, int]()
    for chunk in values:
        expected = []
        for value in chunk:
            expected.append(seen.get(value, 0))
            seen[value] = expected[-1] + 1
        assert counter.number(np.array(chunk, np.uint64)).tolist() == expected


@examples(30)
@given(
    number=st.decimals(-99_999_999, 99_999_999, places=2, allow_nan=False, allow_infinity=False),
    decimal=st.sampled_from([".", ","]),
    dress=st.sampled_from(["{}", "${}", "{} €", "¥ {}", "{}元", " {} ", "GBP {}"]),
    grouped=st.booleans(),
)
def test_numbers_are_read_in_every_dress(number, decimal, dress: str, grouped: bool) -> None:
    text = f"{number:,.2f}" if grouped else f"{number:.2f}"
    if decimal == ",":
        text = text.translate(str.maketrans(",.", ".,"))
    found = parse_numbers(pl.Series([dress.format(text)]), decimal, money=True)
    assert found.to_list() == [pytest.approx(float(number))]


@examples(30)
@given(
    at=st.datetimes(datetime(1990, 1, 2), datetime(2025, 12, 31)).map(lambda t: t.replace(microsecond=0)),
    style=st.sampled_from(
        ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y年%m月%d日 %H:%M:%S", "%d.%m.%Y %H:%M:%S",
         "%m/%d/%Y %I:%M:%S %p", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+05:30", "%Y-%m-%dT%H:%M:%S.000-0800"]
    ),
)  # fmt: skip
def test_times_are_read_in_every_style(at: datetime, style: str) -> None:
    kind = {"%d.": "dmy", "%m/": "mdy"}.get(style[:3], "iso")
    how = TimeFormat(kind=kind, tz="UTC")
    found = parse_times(pl.Series([at.strftime(style)]), how, file="x", now=NOW)
    shift = {"+05:30": -330, "-0800": 480}.get(style[-6:] if style.endswith("+05:30") else style[-5:], 0)
    expected = at.replace(tzinfo=UTC) + timedelta(minutes=shift)
    assert found.at.tolist() == [int(expected.timestamp()) * 1_000_000]
