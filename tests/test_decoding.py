"""Decoding under a grammar: what cannot be written is never written, even by a model that writes by chance alone."""

from __future__ import annotations

import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tiny_encoders import make_causal

from recllm.base.schema import Item
from recllm.market.adcopy.opening_line import constraint_for
from recllm.market.adcopy.request import CopyRequest, Voice
from recllm.market.adcopy.write import sayable_facts
from recllm.text.generator.constraint import Constraint, grammar

NOW = datetime(2025, 11, 5, tzinfo=UTC)
BRANDS = ("acme", "oak valley", "zed")
EN = Constraint.of("en", BRANDS, ["Hearth"])
ZH = Constraint.of("zh", ["小米"])
CORPUS = [
    'Soft buns for your table, warm and bright. Acme oak valley zed Hearth 12 345 $ € % "quoted" https://a.example',
    "温和的洗手液，照顾一家人的双手。小米手机，三百元，￥９！二十折“好”",
    "one two ① ½ ९ ٣ £ ¥ <b> {x} [y] @me #tag\nnew line",
]


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model with random weights over a byte-level vocabulary: any text at all is as likely as another."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("noise")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        CORPUS * 5, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=special)
    )
    sizes = {"num_hidden_layers": 1, "max_position_embeddings": 1024}
    size = tokenizer.get_vocab_size() + 7  # larger than the tokenizer's, as many models' are
    return make_causal(folder, tokenizer, special, vocabulary=size, **sizes)


def written(folder: Path, constraint: Constraint, *, calls: int = 3, tokens: int = 160) -> list[str]:
    pytest.importorskip("llguidance")
    from recllm.base.errors import GenerationError
    from recllm.text.generator.local import LocalGenerator

    generator = LocalGenerator(folder, temperature=1.5, top_k=0)
    assert generator.decoding == "grammar" and generator.takes_constraints
    texts: list[str] = []
    for seed in range(calls):
        try:
            texts += generator.generate("Product: buns", n=12, max_tokens=tokens, seed=seed, constraint=constraint)
        except GenerationError as error:
            assert "finished no text" in str(error)
    return texts


def unwritable(text: str) -> list[str]:
    """Characters that no line may hold."""
    signs = set('"“”„«»「」『』%‰<>{}[]@#/\\|_=+*~^&:\n')
    kinds = {"Nd", "Nl", "No", "Sc", "So", "Cc", "Cf"}
    return [c for c in text if c in signs or unicodedata.category(c) in kinds]


def test_noise_under_the_english_grammar_is_a_line(noise: Path) -> None:
    texts = written(noise, EN)
    assert len(texts) >= 12
    for text in texts:
        assert unwritable(text) == []
        assert re.fullmatch(r"[A-Z].*[.!?]", text) and len(re.findall(r"[.!?]", text)) == 1
        assert 4 <= len(text.split()) <= 30
        assert not re.search(r"(?i)(?<![a-z])(acme|oak[ -]valley|zed(?![a-z]))", text)
        assert all(word.strip(",;.!?") == "Hearth" for word in text.split()[1:] if word[0].isupper())


def test_noise_under_the_chinese_grammar_is_a_line(noise: Path) -> None:
    texts = written(noise, ZH, tokens=120)
    assert len(texts) >= 6
    for text in texts:
        assert unwritable(text) == [] and "小米" not in text
        assert re.fullmatch(r"[\u4e00-\u9fffT，、]{5,60}[。！]", text)
        assert not set(text) & set("零〇二三四五六七八九千万亿两")


def test_without_the_grammar_the_same_noise_holds_all_of_it(noise: Path) -> None:
    """The property above can fail: the model does want to write what it may not."""
    from recllm.text.generator.local import LocalGenerator

    generator = LocalGenerator(noise, temperature=1.5, top_k=0, decoding="free")
    texts = generator.generate("Product: buns", n=24, max_tokens=80, seed=0)
    assert generator.decoding == "free" and not generator.takes_constraints
    assert any(unwritable(text) for text in texts)


def test_without_the_extra_a_mask_of_characters_does_and_says_so(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recllm.text.generator.local import LocalGenerator

    monkeypatch.setitem(sys.modules, "llguidance", None)
    generator = LocalGenerator(noise)
    assert generator.decoding == "mask" and "decoding='mask'" in repr(generator)
    texts = generator.generate("Product: buns", n=12, max_tokens=30, seed=0, constraint=EN)
    assert not set("".join(texts)) & set('0123456789$%"<>@#\n')


def test_equal_seeds_give_equal_lines_under_a_grammar(noise: Path) -> None:
    assert written(noise, EN, calls=2) == written(noise, EN, calls=2)


def test_decoding_belongs_to_the_fingerprint(noise: Path) -> None:
    pytest.importorskip("llguidance")
    from recllm.text.generator.local import LocalGenerator

    assert len({LocalGenerator(noise, decoding=kind).fingerprint for kind in ("grammar", "mask", "free")}) == 3


@pytest.mark.parametrize(
    ("constraint", "text", "good"),
    [
        (EN, "Soft buns for your table.", True),
        (EN, "Soft Hearth buns for you.", True),
        (EN, "Soft acme buns for you.", False),
        (EN, "Soft oak-valley buns for you.", False),
        (EN, "Soft zed buns for you.", False),
        (EN, "Soft zedlike buns for you.", True),
        (EN, "Soft Meadow buns for you.", False),
        (EN, "Soft buns for your 2 tables.", False),
        (EN, "Soft buns for your table", False),
        (EN, "soft buns for your table.", False),
        (EN, "Soft buns for you. Buy them now.", False),
        (ZH, "温和的洗手液，照顾一家人的双手。", True),
        (ZH, "百搭的圆领羊毛衫，舒服。", True),
        (ZH, "小米手机，陪你走过。", False),
        (ZH, "三条牛仔裤，陪你走过。", False),
        (ZH, "温和的洗手液", False),
        (ZH, "温和的洗手液９折。", False),
    ],
)
def test_what_a_grammar_takes(noise: Path, constraint: Constraint, text: str, good: bool) -> None:
    hf = pytest.importorskip("llguidance.hf")
    from llguidance import LLMatcher
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(noise)
    matcher = LLMatcher(hf.from_tokenizer(tokenizer), grammar(constraint))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()) is good


def test_a_thousand_names_make_a_grammar(noise: Path) -> None:
    names = [f"{a}{b}{c}ov" for a in "bcdfgklmpt" for b in "aeiou" for c in "bcdfghjklmnpqrstvwxz"]
    assert len(set(names)) == 1_000
    texts = written(noise, Constraint.of("en", names), calls=1)
    assert all(not set(re.findall(r"[a-z]+", text.lower())) & set(names) for text in texts)


def test_bounds_are_the_items_own() -> None:
    item = Item(item_id="b", title="Hearth seven grain Acme buns", brand="Hearth")
    voice = Voice(banned=("cheap", "bargain*"))
    brands = frozenset({"Hearth", "Acme", "Oak Valley", "Dove"})
    request = CopyRequest(item=item, channel="push", now=NOW, known_brands=brands, voice=voice)
    bounds = constraint_for(sayable_facts(request), request)
    assert {"oak valley", "cheap", "nike", "eight"} <= set(bounds.forbidden)
    assert not {"hearth", "acme", "seven", "dove", "bargain*"} & set(bounds.forbidden)
    assert set(bounds.names) == {"Acme", "Hearth"}
