from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from recllm.base.errors import ModelError
from recllm.base.schema import Action
from recllm.learn.features.candidates import BIT, INTERESTS, SOURCES, CandidateCounts, candidates, explicit
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.models.sequence import (
    SequenceArguments,
    SequenceConfig,
    SequenceModel,
    Sequences,
    gap_bucket,
    load_sequence_model,
    save_sequence_model,
)
from recllm.learn.models.sequence_network import NextBaskets, SequenceLearner, SequenceNetwork, learn_sequence_model
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import unit

TARGET = (Action.PURCHASE,)
SMALL = SequenceArguments(
    dim=16, epochs=30, patience=30, negatives=32, later_epochs=2, dropout=0.1, batch_size=16, learning_rate=1e-2
)
STEP = 10 * DAY


def log(rows: list[tuple[str, str, int]], n_items: int = 24, event: str = "purchase") -> Dataset:
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").with_columns(
        event=pl.lit(event)
    )
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(n_items)], "title": [f"item {i}" for i in range(n_items)]})
    return Dataset.construct(events, None, items)


def chains(people: int = 120, length: int = 5, seed: int = 0) -> list[tuple[str, str, int]]:
    """Everybody walks up the ring of 24 items from where they begin: after i comes i + 1, always."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{u}", f"i{(start + step) % 24}", 1_000_000_000 + step * STEP)
        for u, start in enumerate(rng.integers(24, size=people))
        for step in range(length)
    ]


def texts(n_items: int = 24, dim: int = 12, seed: int = 1) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).normal(size=(n_items, dim)))


def learned(data: Dataset, vectors: NDArray[np.float32], args: SequenceArguments = SMALL) -> SequenceModel:
    found = learn_sequence_model(data, vectors, None, TARGET, [data.as_of], data.as_of - 2 * STEP, args)
    assert found is not None
    return found[0]


def test_baskets_with_something_new_are_predicted() -> None:
    data = log([("a", "i1", 0), ("a", "i2", 0), ("a", "i1", STEP), ("a", "i3", 2 * STEP), ("b", "i1", 5)])
    sequences = Sequences.of(data.events, TARGET, data.as_of)
    baskets = NextBaskets.of(sequences)
    a, b = data.user_rows(["a", "b"])
    found = {
        (int(u), int(t), frozenset(data.items["item_id"][int(i)] for i in sequences.item[baskets.new_tokens[low:high]]))
        for u, t, low, high in zip(baskets.user, baskets.token, baskets.low, baskets.high, strict=True)
    }
    start = int(sequences.indptr[a])
    assert found == {
        (a, -1, frozenset({"i1", "i2"})),
        (a, start + 2, frozenset({"i3"})),  # the basket before it brought nothing new and is not predicted
        (b, -1, frozenset({"i1"})),
    }


def test_gaps_are_powers_of_two_days() -> None:
    days = np.array([0, 0.2, 1, 2, 3, 4, 500]) * DAY
    assert gap_bucket(days.astype(np.int64)).tolist() == [0, 1, 2, 3, 3, 4, 10]


def test_it_learns_what_follows_what() -> None:
    data, vectors = log(chains()), texts()
    model = learned(data, vectors)
    rows = data.item_rows([f"i{i}" for i in range(24)])
    asked = log([("x", "i3", 0), ("x", "i4", STEP), ("y", "i10", 0), ("y", "i11", STEP)])
    users = model.users(asked.events, 2 * STEP)
    x, y = asked.user_rows(["x", "y"]).tolist()
    best = [int(np.argmax(scores)) for scores in model.catalogue(users)]
    assert best[x] == rows[5] and best[y] == rows[12]


def test_nothing_after_a_cut_reaches_its_snapshot() -> None:
    rows = chains()
    cut = 1_000_000_000 + 3 * STEP
    changed = [(u, "i0" if at >= cut else i, at) for u, i, at in rows]
    args = SMALL.model_copy(update={"epochs": 3})

    def first(rows: list[tuple[str, str, int]]) -> SequenceModel:
        data = log(rows)
        found = learn_sequence_model(data, texts(), None, TARGET, [cut, data.as_of], cut - STEP, args)
        assert found is not None
        assert not np.array_equal(found[0].vectors, found[1].vectors)
        return found[0]

    one, other = first(rows), first(changed)
    assert np.array_equal(one.vectors, other.vectors)
    assert np.array_equal(one.bias, other.bias)


def test_the_same_seed_gives_the_same_model() -> None:
    data, args = log(chains()), SMALL.model_copy(update={"epochs": 2})
    one, other = learned(data, texts(), args), learned(data, texts(), args)
    assert np.array_equal(one.vectors, other.vectors)


def test_an_item_that_never_sold_is_found_by_its_text() -> None:
    vectors = texts(25)
    data = log(chains(), 25)
    rows = data.item_rows(["i5", "i24", "i17"])
    vectors[rows[1]] = vectors[rows[0]]  # i24 never sold and reads like i5
    model = learned(data, vectors)
    asked = log([("x", "i3", 0), ("x", "i4", STEP)], 25)
    scores = next(model.catalogue(model.users(asked.events, 2 * STEP)))
    assert scores[rows[1]] > scores[rows[2]]
    assert (scores < scores[rows[1]]).sum() >= 20


def test_scores_of_pairs_are_those_of_the_catalogue() -> None:
    data = log(chains())
    model = learned(data, texts(), SMALL.model_copy(update={"epochs": 2}))
    users = model.users(data.events.rows(np.arange(4)), data.as_of)
    assert users.shape == (4, 16)
    whole = np.stack(list(model.catalogue(users)))
    pairs = model.score(users, explicit(4, np.arange(24)))
    np.testing.assert_allclose(pairs.reshape(4, 24), whole, rtol=1e-5)


def test_a_person_alone_is_encoded_as_among_others() -> None:
    data = log(chains())
    model = learned(data, texts(), SMALL.model_copy(update={"epochs": 2}))
    together = model.users(data.events, data.as_of)
    alone = model.users(data.events.rows(np.array([7])), data.as_of)
    np.testing.assert_allclose(alone[0], together[7], atol=1e-5)


def test_the_served_form_encodes_people_as_the_network_does() -> None:
    data, vectors = log(chains()), texts()
    config = SequenceConfig(
        n_items=24, text_dim=12, dim=8, layers=2, attention_heads=2, max_length=4, dropout=0.1,
        residual_dropout=0.5, text=True, temperature=0.1,
    )  # fmt: skip
    network = SequenceNetwork(config, seed=3).eval()
    with torch.no_grad():
        network.known.fill_(True)
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    model = network.frozen(vectors, TARGET)
    basics = np.random.default_rng(0).normal(size=(data.n_users, 12)).astype(np.float32)
    sequences = Sequences.of(data.events, TARGET, data.as_of)
    stop = sequences.indptr[1:]
    start = np.maximum(sequences.indptr[:-1], stop - config.max_length)
    batch = sequences.padded(start, stop, basics)
    with torch.no_grad():
        read, bias = network.items(torch.from_numpy(vectors), torch.arange(24))
        states = network.states(read, batch, np.arange(sequences.n), stop - start)
        expected = torch.nn.functional.normalize(states, dim=-1)
    np.testing.assert_allclose(model.users(data.events, data.as_of, basics), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.read, read.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.bias, bias.numpy(), atol=1e-5)


def test_saved_and_loaded_it_scores_the_same(tmp_path: Path) -> None:
    data, vectors = log(chains()), texts()
    model = learned(data, vectors, SMALL.model_copy(update={"epochs": 2}))
    ids = data.items["item_id"].to_list()
    save_sequence_model(model.stored(ids), tmp_path)
    weights = load_sequence_model(tmp_path)
    assert weights is not None
    again = weights.bind(ids, vectors)
    np.testing.assert_allclose(again.users(data.events, data.as_of), model.users(data.events, data.as_of), atol=1e-6)
    assert load_sequence_model(tmp_path / "none") is None
    with pytest.raises(ModelError, match="24 items"):
        weights.bind(ids, texts(30))
    (tmp_path / "interests.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="train again"):
        load_sequence_model(tmp_path)


def test_a_grown_catalogue_keeps_what_was_learned_and_adds_by_text() -> None:
    data, vectors = log(chains()), texts()
    model = learned(data, vectors, SMALL.model_copy(update={"epochs": 2}))
    ids = data.items["item_id"].to_list()
    turned = ["fresh", *reversed(ids)]
    grown = model.stored(ids).bind(turned, np.concatenate([vectors[:1], vectors[::-1]]))
    np.testing.assert_allclose(grown.vectors[1:], model.vectors[::-1], atol=1e-6)
    assert not np.allclose(grown.vectors[0], model.vectors[0])  # the twin of row 0 has no residual of its own


def test_too_few_events_make_no_model() -> None:
    data = log(chains(5))
    assert learn_sequence_model(data, texts(), None, TARGET, [data.as_of], data.as_of - STEP, SMALL) is None


def test_it_proposes_candidates() -> None:
    data, vectors = log(chains()), texts()
    crowd = CollaborativeStatistics.fit(data, vectors, interests=learned(data, vectors))
    asked = ask(crowd, data.events, data.as_of, user_rows=np.arange(data.n_users))
    off = dict.fromkeys(SOURCES, 0)
    found = candidates(asked, CandidateCounts(**{**off, "interests": 3}), repeats=False)
    assert (np.diff(found.indptr) == 3).all()
    assert (found.sources == BIT[INTERESTS]).all()


def learner_of(args: SequenceArguments) -> SequenceLearner:
    return SequenceLearner(log(chains()), texts(), None, TARGET, args)


def test_the_state_of_a_token_is_that_of_a_plain_transformer() -> None:
    learner = learner_of(SMALL.model_copy(update={"layers": 2}))
    network, sequences = learner.network.eval(), learner.sequences
    network.known.fill_(True)
    start, stop = sequences.indptr[:6], sequences.indptr[:6] + np.array([5, 1, 3, 5, 2, 4])
    batch = sequences.padded(start, stop, None)
    row, column = np.repeat(np.arange(6), 2), np.array([0, 5, 0, 1, 2, 3, 1, 4, 0, 2, 3, 4])
    with torch.no_grad():
        vectors, _ = network.items(torch.from_numpy(texts()), torch.arange(24))
        states = network.states(vectors, batch, row, column)
        item, action, gap = (torch.from_numpy(part) for part in batch[:3])
        token = network.item_norm(vectors[item.clamp(min=0)]) + network.action(action) + network.gap(gap)
        token = token + network.place.weight[: item.shape[1]]
        first = network.basics(torch.zeros(6, 1, texts().shape[1]))
        hidden = torch.triu(torch.ones(1 + item.shape[1], 1 + item.shape[1], dtype=torch.bool), 1)
        expected = network.norm(network.transformer(torch.cat([first, token], 1), mask=hidden))
    np.testing.assert_allclose(states.numpy(), expected[row, column].numpy(), atol=1e-5)


def test_two_halves_of_a_batch_have_the_gradient_of_the_whole() -> None:
    learner = learner_of(SMALL.model_copy(update={"dropout": 0.0, "residual_dropout": 0.0}))
    network, baskets = learner.network, np.arange(60)
    network.known.fill_(True)
    batch = next(learner._batches(baskets, np.random.default_rng(0)))
    answer = learner.sequences.item[learner.baskets.draw(batch.baskets, np.random.default_rng(0))].astype(np.int64)
    middle = len(batch.user) // 2
    inside = int(np.searchsorted(batch.row, middle))
    halves = [
        (batch.piece(slice(0, middle), slice(0, inside)), answer[:inside]),
        (batch.piece(slice(middle, None), slice(inside, None)), answer[inside:]),
    ]
    sums = []
    for parts in ([(batch, answer)], halves):
        network.zero_grad()
        table = torch.zeros_like(network.residual.weight)
        loss = 0.0
        for part, answers in parts:
            found = learner._add_gradient(part, answers, 0, np.arange(24), np.ones(24, np.float32), len(answer))
            table[found.rows] += found.gradients[0]
            loss += found.loss
        assert network.text.weight.grad is not None
        sums.append((loss, table, network.text.weight.grad.clone()))
    (loss, table, weight), (other_loss, other_table, other_weight) = sums
    assert loss == pytest.approx(other_loss, rel=1e-5)
    np.testing.assert_allclose(other_table.numpy(), table.numpy(), atol=1e-6)
    np.testing.assert_allclose(other_weight.numpy(), weight.numpy(), atol=1e-6)
    assert table.abs().sum() > 0


def test_the_number_of_cores_changes_nothing() -> None:
    data, args, models, threads = log(chains()), SMALL.model_copy(update={"epochs": 2}), [], torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            models.append(learned(data, texts(), args))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(models[0].vectors, models[1].vectors, atol=1e-6)


def test_what_is_dropped_is_made_up_for() -> None:
    network = learner_of(SMALL).network
    ones = torch.ones(400, 50)
    dropped = network._drop(ones, np.random.default_rng(0))
    assert (dropped == 0).float().mean().item() == pytest.approx(SMALL.dropout, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert network._drop(ones, None) is ones
