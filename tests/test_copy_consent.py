"""A generator says what people must have agreed to; nobody's text is asked of one that they did not agree to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedGenerator
from shop_world import load_lines, loaded

from recllm.base.errors import PolicyError, UsageError
from recllm.base.schema import Generator, Purpose
from recllm.market.adcopy.ads import may_be_modelled, write_ads
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.workspace import Workspace
from recllm.text.generator.http import HttpGenerator
from recllm.text.generator.local import LocalGenerator

ITEMS = """item_id,title,category,brand,price,currency
mug,Green tea,food > tea,Clay,7.00,USD
hook,Coat hook,home > hall,,9.00,USD
"""
EVENTS = (
    "user_id,item_id,event,timestamp,quantity,price\n"
    + "".join(
        f"{user},mug,purchase,2025-0{month}-01T10:00:00Z,1,7.00\n" for user in ("ann", "bob") for month in (1, 2, 3)
    )
    + "cy,hook,purchase,2025-04-01T10:00:00Z,1,9.00\n"
)
CONSENT = """user_id,purpose,granted,timestamp
ann,llm_third_party,true,2025-01-01T00:00:00Z
bob,llm_local,true,2025-01-01T00:00:00Z
"""
LINE = "subject: Green tea\npreheader: $7 today.\nheadline: For the pot\nbody: Green tea for your next order, at $7."


class Wrapper:
    """Another class around a generator, as a cache or a recorder is."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workspace]:
    tables = {"items": ITEMS, "events": EVENTS, "consent": CONSENT}
    with Workspace.open(loaded(tmp_path, {n: t.splitlines() for n, t in tables.items()}, currency="USD")) as workspace:
        yield workspace


def remote() -> ScriptedGenerator:
    return ScriptedGenerator([LINE], repeat=True, name="remote", purpose=Purpose.LLM_THIRD_PARTY)


@pytest.mark.parametrize("wrap", [lambda g: g, Wrapper, lambda g: Wrapper(Wrapper(g))])
def test_any_generator_that_sends_texts_away_asks_for_that(shop: Workspace, wrap: Any) -> None:
    generator = remote()
    ann, bob = write_ads(shop, open_recommender(shop), ["ann", "bob"], generator=wrap(generator)).texts
    assert (ann.generator, ann.user_id, bob.generator, bob.user_id) == ("remote", "ann", "template", "bob")
    assert len(generator.prompts) == 1


def test_a_generator_that_says_nothing_is_refused(shop: Workspace) -> None:
    class Silent:
        name = "silent"

        def generate(self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0) -> list[str]:
            raise AssertionError("nobody agreed to this")

    silent: Any = Silent()
    assert not isinstance(silent, Generator)
    with pytest.raises(UsageError, match="'silent' does not say where texts go"):
        write_ads(shop, open_recommender(shop), ["ann"], generator=silent)
    silent.purpose = Purpose.EMAIL
    with pytest.raises(UsageError, match="llm_local"):
        may_be_modelled(shop.gate(), ["ann"], silent)


def test_a_channel_asks_for_consent_too(shop: Workspace) -> None:
    load_lines(shop, "consent", ["user_id,purpose,granted,timestamp", "bob,email,false,2025-02-01T00:00:00Z"])
    with pytest.raises(PolicyError, match="email"):
        write_ads(shop, open_recommender(shop), ["ann", "bob"], channel="email")
    assert write_ads(shop, open_recommender(shop), ["bob"], channel="push").texts[0].verified


def test_every_generator_states_its_purpose() -> None:
    assert HttpGenerator("http://localhost:8000/v1").purpose is Purpose.LLM_THIRD_PARTY
    assert LocalGenerator.purpose is Purpose.LLM_LOCAL
