"""Conditions on the catalogue: what they mean, and that they are nothing but conditions."""

from __future__ import annotations

import contextlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recllm.base.errors import UsageError
from recllm.shop.data.catalogue import matching

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c"],
        "title": ["Green tea", "100% cacao", None],
        "category": [["food", "tea"], ["food"], None],
        "brand": ["Acme", None, "O'Neil"],
        "price": [3.0, None, 9.5],
        "currency": ["EUR"] * 3,
    }
)

PIECES = ["price", "title", "(", ")", "<", "=", "'a'", "3", "AND", "OR", "NOT", "LIKE", "IN", ",", "IS", "NULL"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("price < 5", "a"),
        ("PRICE >= 9.5 or price = 3", "ac"),
        ("NOT price < 5", "c"),  # of an unknown price nothing is said
        ("price IS NULL", "b"),
        ("price IS NOT NULL AND brand = 'O''Neil'", "c"),
        ("brand IN ('Acme', 'Other')", "a"),
        ("brand NOT IN ('Acme')", "c"),
        ("price BETWEEN 3 AND 9", "a"),
        ("price NOT BETWEEN 3 AND 9", "c"),
        ("title LIKE '%tea'", "a"),
        ("title LIKE '1__% cacao'", "b"),
        ("title ILIKE 'GREEN%'", "a"),
        ("title NOT LIKE 'Green%'", "b"),
        ("category LIKE 'food%'", "ab"),
        ("category = 'food > tea'", "a"),
        ("lower(brand) = 'acme' AND upper(currency) <> 'USD'", "a"),
        ("(price > -1) AND (item_id != 'c')", "a"),
        ("1 = 1", "abc"),
        ("title LIKE '.*'", ""),  # no pattern but that of SQL
    ],
)
def test_a_condition_means_what_sql_means(where: str, expected: str) -> None:
    assert "".join(ITEMS.filter(pl.Series(matching(ITEMS, where)))["item_id"]) == expected


@pytest.mark.parametrize(
    "where",
    [
        "",
        "price",
        "price <",
        "colour = 'red'",
        "price = 'x'",
        "brand = price",
        "other.price < 3",
        "title LIKE brand",
        "price < 5; price > 1",
        "price < (SELECT 1)",
        "item_id IN (SELECT x FROM read_csv('/etc/passwd'))",
        "LPAD(title, 200000000, 'x') = 'x'",
        "readfile('/etc/passwd') IS NOT NULL",
        "1 = 1 UNION SELECT * FROM users",
        "ATTACH 'x.sqlite' AS x",
        "{{ 7 * 7 }}",
        "(" * 900 + "price < 5" + ")" * 900,
    ],
)
def test_anything_else_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        matching(ITEMS, where)


@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_whatever_is_sent_is_a_condition_or_refused(where: str) -> None:
    with contextlib.suppress(UsageError):
        assert matching(ITEMS, where).shape == (3,)
