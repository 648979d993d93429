"""Which text people answer, learned from A/B tests: training, intervals, commands, and the verifier before it."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from scripted import ScriptedGenerator
from text_lines import read_pairs
from tiny_encoders import make_model

from recllm.base.errors import DataError, GenerationError, ModelError
from recllm.base.schema import CopyVerdict, Item
from recllm.learn.models.effect import (
    HEAD,
    WORD_COLUMNS,
    Calibration,
    EffectModel,
    PairTable,
    TextPair,
    accuracy,
    accuracy_interval,
    fold_of_test,
    in_context,
    load_effect,
    rank_texts,
)
from recllm.learn.training.arguments import EffectArguments
from recllm.learn.training.lora.effect import TunedEffect, tune_effect
from recllm.market.adcopy.record import load, replay, write_recorded
from recllm.market.adcopy.request import Ago, CopyRequest, PersonFacts
from recllm.market.adcopy.write import write_copy
from recllm.text.encoder.toy import ToyEncoder

FILL = ("red", "running", "shoes", "garden", "sofa", "with", "four", "cushions", "and", "the", "a")
QUICK = EffectArguments(
    rank=4, epochs=2, members=2, batch_texts=24, learning_rate=1e-3, head_learning_rate=1e-2, dropout=0.0
)


def pairs_of_world(
    rng: np.random.Generator,
    n_tests: int = 60,
    worth: float = 1.2,
    channels: dict[str, float] | None = None,
    shown: int = 2_000,
) -> list[TextPair]:
    """Tests of three texts; one with "milk" has `worth` more log odds, in a channel so many times that."""
    pairs = []
    for number in range(n_tests):
        channel = rng.choice(list(channels)) if channels else None
        texts = [" ".join(rng.choice(FILL, 4)) + f" {number}" for _ in range(3)]
        texts[0] += " milk"
        base = rng.normal(-3, 0.3)
        effects = [worth * (channels[channel] if channels and channel else 1.0), 0.0, 0.0]
        wins = [int(rng.binomial(shown, 1 / (1 + np.exp(-(base + effect))))) for effect in effects]
        for a, b in ((0, 1), (2, 0), (1, 2)):
            counts = {"wins_a": wins[a], "wins_b": wins[b], "shown_a": shown, "shown_b": shown}
            pairs.append(TextPair(test=f"t{number}", a=texts[a], b=texts[b], channel=channel, **counts))
    return pairs


def write_pairs(file: Path, pairs: Sequence[TextPair], **more: Any) -> Path:
    names = ("test", "a", "b", "wins_a", "shown_a", "wins_b", "shown_b", "channel")
    lines = [json.dumps({name: getattr(pair, name) for name in names} | more) for pair in pairs]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedEffect:
    return tune_effect(pairs_of_world(np.random.default_rng(1)), base, tmp_path_factory.mktemp("out") / "effect", QUICK)


# --- learning --------------------------------------------------------------------------------------------------------


def test_the_word_that_wins_is_learned_and_told(tuned: TunedEffect) -> None:
    assert tuned.accuracy > 0.85 and tuned.low <= tuned.accuracy <= tuned.high
    model = load_effect(tuned.folder)
    plain, winning = "the red sofa and a garden", "the red sofa and a garden milk"
    best, other = rank_texts(model, [winning, plain])
    assert best.rank == 1 and other.rank == 2 and best.score > 0 > other.score
    assert best.low < 0.6 < best.high  # half of what "milk" is worth, as the mean lies in the middle
    card = json.loads((tuned.folder / "card.json").read_text("utf-8"))
    assert card["counts"]["tests"] == 60 and card["validation"]["accuracy"] == pytest.approx(tuned.accuracy)
    assert card["epochs"] == [2, 2] and card["settings"]["rank"] == 4 and len(card["data_hash"]) == 16
    assert sorted(p.name for p in tuned.folder.rglob("*") if p.is_file()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
        "head.safetensors",
        "validation.safetensors",
    ]


def test_the_same_seed_gives_the_same_model(base: Path, tuned: TunedEffect, tmp_path: Path) -> None:
    again = tune_effect(pairs_of_world(np.random.default_rng(1)), base, tmp_path / "again", QUICK)
    assert load_effect(again.folder).fingerprint == load_effect(tuned.folder).fingerprint


def test_minutes_end_a_run_after_an_epoch_of_each_member(base: Path, tmp_path: Path) -> None:
    hasty = QUICK.model_copy(update={"epochs": 50, "max_minutes": 1e-6})
    tune_effect(pairs_of_world(np.random.default_rng(2)), base, tmp_path, hasty)
    assert json.loads((tmp_path / "card.json").read_text("utf-8"))["epochs"] == [1, 1]


def test_where_a_text_is_shown_is_read(base: Path, tmp_path: Path) -> None:
    """The same word wins on one channel and loses on the other; without the channel there is nothing to learn."""
    rng = np.random.default_rng(3)
    pairs = pairs_of_world(rng, 150, channels={"red": 1.0, "garden": -1.0})
    with_channel = tune_effect(pairs, base, tmp_path / "with", QUICK)
    without = tune_effect([replace(p, channel=None) for p in pairs], base, tmp_path / "without", QUICK)
    assert without.accuracy < 0.65 < 0.75 < with_channel.accuracy
    model = load_effect(with_channel.folder)
    for channel, first in (("red", 0), ("garden", 1)):
        order = model.order(["the sofa and a milk", "the sofa and a"], channel=channel)
        assert order[0] == first


def test_no_epochs_leave_the_encoder_as_it_is(base: Path, tmp_path: Path) -> None:
    from recllm.text.encoder.loading import load_encoder

    tune_effect(pairs_of_world(np.random.default_rng(4)), base, tmp_path, QUICK.model_copy(update={"epochs": 0}))
    texts = ["red shoes", "milk"]
    assert load_effect(tmp_path).encoder.encode(texts) == pytest.approx(load_encoder(base).encode(texts), abs=1e-6)


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD = {"test": "t", "a": "milk", "b": "sofa", "wins_a": 3, "shown_a": 9, "wins_b": 1, "shown_b": 9}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([GOOD, {**GOOD, "wins_a": 10, "a": "x"}], "line 2: no pair: wins_a is 10 and shown_a 9"),
        ([{**GOOD, "shown_b": 0, "wins_b": 0}], "line 1: no pair: wins_b is 0 and shown_b 0"),
        ([{**GOOD, "wins_a": -1}], "wins_a"),
        ([{**GOOD, "wins_a": True}], "wins_a"),
        ([{**GOOD, "wins_a": 1.5}], "wins_a"),
        ([{**GOOD, "b": " milk "}], "the same text"),
        ([{**GOOD, "a": ""}], "a "),
        ([{k: v for k, v in GOOD.items() if k != "test"}], "test"),
        ([{**GOOD, "clicks": 3}], "no field 'clicks'"),
        (["not JSON"], "line 1: not JSON"),
        (["[]"], "one JSON object"),
        ([], "has no pair"),
        ([{**GOOD, "fold": 0}, {**GOOD, "a": "x", "fold": 1}], "line 2: the test 't' is in the fold 1, and in 0 at"),
        ([{**GOOD, "fold": 0}, {**GOOD, "test": "u"}], "some lines have a fold"),
        ([GOOD, {**GOOD, "a": "sofa", "b": "milk"}], "line 2: the test 't' has these two texts at"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, lines: list[Any], words: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    with pytest.raises(DataError) as error:
        read_pairs(file)
    assert words in str(error.value) and str(file) in str(error.value)


def test_too_few_tests_and_torn_folds_are_refused(base: Path, tmp_path: Path) -> None:
    pairs = pairs_of_world(np.random.default_rng(5), 20)
    with pytest.raises(DataError, match=r"20 tests have a pair .* needs 40"):
        tune_effect(pairs, base, tmp_path, QUICK)
    pairs = pairs_of_world(np.random.default_rng(5))
    with pytest.raises(DataError, match="one fold"):
        tune_effect([replace(p, fold=0) for p in pairs], base, tmp_path, QUICK)
    with pytest.raises(DataError, match="in the folds 1 and 0"):
        tune_effect([replace(p, fold=int(n > 0)) for n, p in enumerate(reversed(pairs))][::-1], base, tmp_path, QUICK)


def test_given_folds_are_the_members(base: Path, tmp_path: Path) -> None:
    pairs = [replace(p, fold=4 * int(p.test[1:]) % 3) for p in pairs_of_world(np.random.default_rng(6))]
    tune_effect(pairs, base, tmp_path, QUICK.model_copy(update={"epochs": 0}))
    assert len(json.loads((tmp_path / "card.json").read_text("utf-8"))["validation"]["by_fold"]) == 3


def test_the_script(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "effect.toml"
    recipe.write_text("[effect]\nepochs = 0\n", "utf-8")
    good = write_pairs(tmp_path / "pairs.jsonl", pairs_of_world(np.random.default_rng(7)))
    bad = write_pairs(tmp_path / "bad.jsonl", pairs_of_world(np.random.default_rng(7)), wins_a=-1)
    root = Path(__file__).resolve().parents[1]
    script = str(root / "finetune" / "effect.py")

    def arguments(pairs: Path) -> list[str]:
        return [script, str(recipe), "--pairs", str(pairs), "--encoder", str(base), "--out", str(tmp_path / "out")]

    environment = {"PYTHONPATH": str(root), "PATH": ""}
    done = subprocess.run([sys.executable, *arguments(good)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_pairs"] == 180
    for pairs, words in ((bad, "bad.jsonl, line 1"), (tmp_path / "none.jsonl", "none.jsonl")):
        monkeypatch.setattr(sys, "argv", arguments(pairs))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(script, run_name="__main__")
        assert stop.value.code == 2 and words in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_refused(tuned: TunedEffect, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"finetune/effect\.py"):
        load_effect(tmp_path / "none")
    for damage in ("card.json", HEAD):
        broken = tmp_path / damage
        shutil.copytree(tuned.folder, broken)
        (broken / damage).write_bytes(b"{}")
        with pytest.raises(ModelError, match="no effect model"):
            load_effect(broken)


def test_a_model_that_counts_other_forms_of_words_opens_and_says_so(
    tuned: TunedEffect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = Path(shutil.copytree(tuned.folder, tmp_path / "earlier"))
    card = json.loads((earlier / "card.json").read_text("utf-8"))
    del card["word_forms"]
    (earlier / "card.json").write_text(json.dumps(card))
    assert load_effect(tuned.folder).fingerprint == load_effect(earlier).fingerprint
    assert [record.getMessage() for record in caplog.records if record.name == "recllm.learn.models.effect"] == [
        f"{earlier}: the effect model counts some plurals as other words; learn it again"
    ]


# --- the intervals ---------------------------------------------------------------------------------------------------


def made_model(weight: np.ndarray[Any, Any], spread: float = 0.2, slope: float = 1.0) -> EffectModel:
    encoder = ToyEncoder()
    return EffectModel(
        encoder=encoder,
        weight=weight,
        word_weight=np.zeros(WORD_COLUMNS),
        calibration=Calibration(slope=slope, word_slope=0.0, spread=spread),
        card={},
        fingerprint="f" * 64,
    )


def test_an_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Texts whose true effects are a linear score and something of their own: slope, spread and coverage come back."""
    covered, slopes, spreads = [], [], []
    for world in range(30):
        rng = np.random.default_rng([11, world])
        n_tests, m, shown = 150, 4, 3_000
        score = rng.normal(0, 1, (n_tests, m))
        effect = 0.15 * score + rng.normal(0, 0.2, (n_tests, m))
        rate = 1 / (1 + np.exp(3.5 - effect))
        wins = rng.binomial(shown, rate)
        pairs = [
            TextPair(
                test=str(t), a=f"{t} {i}", b=f"{t} {j}", wins_a=int(wins[t, i]), shown_a=shown, wins_b=int(wins[t, j]),
                shown_b=shown,
            )
            for t in range(n_tests)
            for i in range(m)
            for j in range(i)
        ]  # fmt: skip
        table = PairTable.of(pairs)
        of_text = np.array([score[tuple(map(int, text.split()))] for text in table.texts])
        predicted = np.stack([of_text[table.a] - of_text[table.b], rng.normal(0, 1, len(table))], axis=1)
        calibration = Calibration.of(predicted, table)
        slopes.append(calibration.slope)
        spreads.append(calibration.spread)
        new = rng.normal(0, 1, 5)
        truth = 0.15 * new + rng.normal(0, 0.2, 5)
        encoder = ToyEncoder()
        names = [f"text {i}" for i in range(5)]
        weight = np.linalg.lstsq(encoder.encode(names).astype(float), new, rcond=None)[0]
        model = made_model(weight, calibration.spread, calibration.slope)
        for place, true in zip(rank_texts(model, names), truth - truth.mean(), strict=True):
            covered.append(place.low <= true <= place.high)
    assert np.mean(slopes) == pytest.approx(0.15, abs=0.01) and np.mean(spreads) == pytest.approx(0.2, abs=0.02)
    assert 0.9 < np.mean(covered) < 0.99


def test_without_any_effect_the_slope_is_next_to_nothing() -> None:
    rng = np.random.default_rng(12)
    table = PairTable.of(pairs_of_world(rng, 200, worth=0.0))
    calibration = Calibration.of(rng.normal(0, 1, (len(table), 2)), table)
    assert max(calibration.slope, calibration.word_slope) < 0.05 and calibration.spread < 0.1


def test_accuracy_counts_clear_pairs_and_its_interval_draws_tests() -> None:
    counts = {"shown_a": 1_000, "shown_b": 1_000}
    pairs = [
        TextPair(test="1", a="a", b="b", wins_a=100, wins_b=20, **counts),
        TextPair(test="2", a="c", b="d", wins_a=20, wins_b=100, **counts),
        TextPair(test="3", a="e", b="f", wins_a=50, wins_b=51, **counts),  # no clear winner
        TextPair(test="4", a="g", b="h", wins_a=100, wins_b=20, **counts),
    ]
    table = PairTable.of(pairs)
    predicted = np.array([1.0, 1.0, -5.0, 0.0])
    assert accuracy(predicted, table) == pytest.approx((1 + 0 + 0.5) / 3)
    low, high = accuracy_interval(predicted, table, np.random.default_rng(0))
    assert low == 0.0 and high == 1.0
    assert np.isnan(accuracy(predicted[2:3], table.rows(np.array([2]))))


def test_folds_are_of_tests() -> None:
    counts = np.bincount([fold_of_test(f"t{n}", 4) for n in range(4_000)], minlength=4)
    assert counts.min() > 900 and fold_of_test("t7", 4) == fold_of_test("t7", 4)
    assert [fold_of_test(f"t{n}", 4, 1) for n in range(20)] != [fold_of_test(f"t{n}", 4) for n in range(20)]


# --- ranking ---------------------------------------------------------------------------------------------------------


def milk_model() -> EffectModel:
    """More of whatever the toy makes of "milk"."""
    return made_model(ToyEncoder().encode(["milk"])[0].astype(float))


def test_groups_twins_and_loners() -> None:
    model = milk_model()
    texts = ["milk", "milk", "sofa", "sofa and milk", "garden"]
    ranked = rank_texts(model, texts, ["x", "x", "x", "x", "alone"])
    assert [place.rank for place in ranked] == [1, 1, 4, 3, 1]
    assert ranked[0] == ranked[1] and ranked[4].score == ranked[4].low == ranked[4].high == 0.0
    assert sum(ranked[i].score for i in (0, 2, 3)) == pytest.approx(0.0)  # twins count once in the mean
    assert rank_texts(model, []) == []


def test_context_stands_before_the_text() -> None:
    assert in_context(" Buns. ", "together", "push") == "push | together | Buns."
    assert in_context("Buns.", None, " ") == "Buns."


def lines_file(folder: Path, *lines: dict[str, Any] | str) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    (folder / "texts.jsonl").write_text("\n".join(texts) + "\n", "utf-8")
    return str(folder / "texts.jsonl")


def test_the_command_ranks_and_names_bad_lines(tuned: TunedEffect, run: Command, tmp_path: Path) -> None:
    good = [
        {"id": "a", "text": "red sofa", "group": "g"},
        {"id": "b", "text": "red sofa milk", "group": "g"},
        {"id": "c", "text": "garden", "group": "h", "channel": "push", "reason": "together"},
    ]
    code, out, _ = run("copy", "check", "--rank", lines_file(tmp_path, *good), "--model", str(tuned.folder), "--json")
    document = json.loads(out)
    assert code == 0 and document["model"].startswith("effect-") and document["unreadable"] == []
    assert [set(result) for result in document["results"]] == [{"id", "score", "rank", "low", "high"}] * 3
    assert [(r["id"], r["rank"]) for r in document["results"]] == [("a", 2), ("b", 1), ("c", 1)]
    assert all(r["low"] <= r["score"] <= r["high"] for r in document["results"])
    bad = lines_file(tmp_path, *good, "", "nonsense", {"id": "a", "text": "twice"}, {"id": "e", "text": "  "})
    code, out, err = run("copy", "check", "--rank", bad, "--model", str(tuned.folder), "--json")
    assert code == 2 and [line["line_no"] for line in json.loads(out)["unreadable"]] == [5, 6, 7]
    assert json.loads(out)["results"] == document["results"] and "line 6: the id 'a' occurs twice" in err
    code, out, _ = run("copy", "check", "--rank", lines_file(tmp_path, *good), "--model", str(tuned.folder))
    rows = out.splitlines()
    assert code == 0 and rows[0].split() == ["group", "rank", "id", "answers", "from", "to", "text"]
    assert [row.split()[2] for row in rows[1:]] == ["b", "a", "c"]
    assert run("copy", "check", "--rank", lines_file(tmp_path), "--model", str(tuned.folder))[0] == 3
    code, _, err = run("copy", "check", "--rank", lines_file(tmp_path, *good), "--model", str(tmp_path / "none"))
    assert code == 1 and "holds no effect model" in err


# --- the verifier decides, the score orders --------------------------------------------------------------------------

NOW = datetime(2025, 11, 1, 9, tzinfo=UTC)
BUNS = Item(
    item_id="b1",
    title="Sandwich buns",
    brand="Hearth",
    category=("Bakery", "Bread"),
    price=Decimal("2.40"),
    currency="USD",
    description="Soft buns for your table.",
)
FRAME = """subject: Sandwich buns for $2.40
preheader: You last bought them in October.
headline: Sandwich buns
body: {}
button: See them"""
REGULAR = PersonFacts(times_bought=3, last=Ago.of(20, NOW.date()))
PLAIN, BEST, BLOCKED, HELD = (
    "Soft buns for your table.",
    "Your table, your soft sandwich buns.",
    "Soft buns for your table, half price today.",
    "Zesty buns for your table.",
)


class PrefersText:
    """A score that likes texts in a stated order; everything else comes last."""

    fingerprint = "e" * 64

    def __init__(self, *liked: str) -> None:
        self.liked, self.asked = liked, []  # type: ignore[var-annotated]

    def order(self, texts: Sequence[str], reason: str | None = None, channel: str | None = None) -> list[int]:
        self.asked.append((list(texts), reason, channel))
        place = [next((n for n, line in enumerate(self.liked) if line in text), 99) for text in texts]
        return sorted(range(len(texts)), key=lambda i: place[i])


def written(effect: Any, **values: Any) -> list[Any]:
    request = CopyRequest(item=BUNS, channel="email", now=NOW, person=REGULAR, **{"variants": 3, **values})
    answers = (FRAME.format(text) for text in (PLAIN, BEST, BLOCKED, HELD))
    generator = ScriptedGenerator(list(answers), repeat=True)
    return list(write_copy(request, generator=generator, effect=effect))


def test_a_score_orders_what_stands_and_overrides_no_verdict() -> None:
    effect = PrefersText(BLOCKED, HELD, BEST, PLAIN)
    copies = written(effect)
    assert BEST in copies[0].text and copies[0].verified
    assert not any(BLOCKED in copy.text for copy in copies)
    verdicts = [copy.verdict for copy in copies]
    assert verdicts == sorted(verdicts, key=lambda v: v is not CopyVerdict.PASS)
    (texts, reason, channel) = effect.asked[0]
    assert not any(refused in text for text in texts for refused in (BLOCKED, HELD))
    assert reason == "general" and channel == "email"
    other = written(PrefersText(PLAIN, BEST))
    assert PLAIN in other[0].text
    assert written(None)[0].text != other[0].text or written(None)[0].text != copies[0].text


def test_a_record_names_the_model_and_comes_again_with_it_alone() -> None:
    effect: Any = PrefersText("table")
    request = CopyRequest(item=BUNS, channel="email", now=NOW, person=REGULAR)
    ((copy, record),) = write_recorded(request, effect=effect)
    assert record.effect == effect.fingerprint
    assert replay(record, effect=effect).text == copy.text
    with pytest.raises(GenerationError, match="effect model"):
        replay(record)
    ((_, without),) = write_recorded(request)
    assert without.effect == "" and replay(without)


def test_a_workspace_orders_its_texts_by_its_own_model(tuned: TunedEffect, run: Command, shop: Path) -> None:
    def texts(*options: str) -> list[dict[str, Any]]:
        code, out, err = run("copy", "-u", "ann", "-w", "shop", "--variants", "3", "--json", *options)
        assert code == 0, err
        found = json.loads(out)
        return list(found if isinstance(found, list) else [found])

    plain = texts()
    by_model = texts("--with", f"effect={tuned.folder}")
    shutil.copytree(tuned.folder, shop / "effect")
    assert [text["text"] for text in texts()] == [text["text"] for text in by_model]
    record_id = by_model[0]["record_id"]
    kind = load(shop / "copies", record_id).request["reason_kind"]
    scores = load_effect(tuned.folder).scores(
        [in_context(text["text"], kind, text["channel"]) for text in by_model if text["verified"]]
    )
    assert len(scores) > 1 and list(scores) == sorted(scores, reverse=True)
    code, out, err = run("copy", "--replay", record_id, "-w", "shop", "--json")
    assert code == 0 and json.loads(out)["text"] == by_model[0]["text"], err
    assert {text["record_id"] for text in plain}.isdisjoint(text["record_id"] for text in by_model)
    shutil.rmtree(shop / "effect")
    code, _, err = run("copy", "--replay", record_id, "-w", "shop")
    assert code == 1 and "effect model" in err
