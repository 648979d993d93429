from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recllm.base.errors import ModelError
from recllm.learn.models.scorer import (
    PARTS,
    Score,
    Scorer,
    ScorerConfig,
    counting_score,
    gelu,
    load_scorer,
    save_scorer,
)
from recllm.learn.models.scorer_network import ScorerNetwork
from recllm.learn.models.trees import BoostingSettings, grow_trees, score_by_splits
from recllm.learn.training.scorer import cold_start_weights, poisson

SHAPE = ScorerConfig(dim=6, features=("a", "b", "c"), projection=4, hidden=(8,))


def score_of(network: ScorerNetwork, *pairs: torch.Tensor) -> Score:
    """What the mean of a network's heads says; pairs: as for `Scorer.score`."""
    mlp = network.each_head(*pairs).mean(dim=0)
    return Score(mlp, network.cosine_weight * pairs[4] + mlp)  # type: ignore[arg-type]


def test_heads_start_apart() -> None:
    scorer = ScorerNetwork(SHAPE).eval()
    users, items, index = torch.ones(1, 6), torch.ones(1, 6), torch.zeros(1, dtype=torch.long)
    given = (scorer.project(users), scorer.project(items), index, index, torch.zeros(1), torch.ones(1, 3))
    with torch.no_grad():
        heads = scorer.each_head(*given)
        assert heads.shape == (2, 1) and heads[0] != heads[1]


def test_a_seed_fixes_the_weights_whatever_the_global_state() -> None:
    torch.manual_seed(1)
    first = ScorerNetwork(SHAPE).state_dict()
    torch.manual_seed(2)
    second = ScorerNetwork(SHAPE).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = ScorerNetwork(ScorerConfig(dim=6, features=("a", "b", "c"), projection=4, hidden=(8,), seed=1)).state_dict()
    assert not torch.equal(first["projection.weight"], other["projection.weight"])


def test_features_are_standardised_and_constant_ones_ignored() -> None:
    scorer = ScorerNetwork(SHAPE).eval()
    raw = np.array([[1, 5, 10], [3, 5, 30]], np.float32)
    scorer.standardise(raw)
    assert scorer.mean.tolist() == [2, 5, 20]
    assert scorer.scale.tolist() == pytest.approx([1, 0, 0.1])


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    scorer = ScorerNetwork(SHAPE).eval()
    scorer.standardise(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    scorer.platt.copy_(torch.tensor([0.5, -2.0]))
    save_scorer(scorer.frozen(), tmp_path)
    again = load_scorer(tmp_path)
    assert again.config == SHAPE
    assert all(np.array_equal(again.weights[name], value) for name, value in scorer.frozen().weights.items())
    assert again.probability(np.float32(2.0)) == pytest.approx(1 / (1 + np.exp(1.0)))


def test_counting_and_trees_are_the_served_score_and_its_file(tmp_path: Path) -> None:
    names = ("count_120", "buyers_28", "buyers_91", "views", "times", "text_nearest")
    learned = ScorerNetwork(replace(SHAPE, features=names)).eval().frozen()
    rng, index = np.random.default_rng(0), np.arange(4)
    cosine, features = rng.random(4, np.float32), rng.random((4, 6), np.float32)
    users, items = (learned.project(rng.standard_normal((4, 6)).astype(np.float32)) for _ in range(2))
    rows = rng.random((200, 6), np.float32)
    trees = grow_trees(rows, (rows[:, 0] > 0.5).astype(float), BoostingSettings(rounds=9), names=names)
    save_scorer(learned.with_counting(trees, -2.0, 9.0), tmp_path)
    served = load_scorer(tmp_path)
    expected = counting_score(features, names, 9.0) - 2 + trees.score(features)
    np.testing.assert_allclose(served.score(users, items, index, index, cosine, features).logit, expected, rtol=1e-5)
    scored = score_by_splits(served.weights, rows.repeat(2, axis=0))
    np.testing.assert_allclose(scored, trees.score(rows).repeat(2), rtol=1e-5)
    assert np.ptp(trees.score(rows)) > 0.1
    served.weights["tree_splits"][1, 0, 0] = 6
    save_scorer(served, tmp_path)
    with pytest.raises(ModelError, match=r"a tree asks what is not there.*train again"):
        load_scorer(tmp_path)
    # a model from before the trees: counting is a share
    of_before = {**learned.weights, "counting": np.array([0.25, -2, 9], np.float32)}
    save_scorer(Scorer(replace(learned.config, counts=True), of_before), tmp_path)
    record = json.loads((tmp_path / "scorer.json").read_text())
    (tmp_path / "scorer.json").write_text(json.dumps({n: v for n, v in record.items() if n != "trees"}))
    alone, shared = (of.score(users, items, index, index, cosine, features) for of in (learned, load_scorer(tmp_path)))
    expected = 0.75 * alone.logit + 0.25 * (counting_score(features, names, 9.0) - 2)
    np.testing.assert_allclose(shared.logit, expected, rtol=1e-5)


def test_gelu_is_that_of_torch() -> None:
    x = np.linspace(-9, 9, 3001).astype(np.float32)
    np.testing.assert_allclose(gelu(x), torch.nn.functional.gelu(torch.from_numpy(x)).numpy(), atol=2e-6)


@pytest.mark.parametrize("parts", [PARTS, ("cosine",), ("cosine", "features")])
@pytest.mark.parametrize("learned_arrivals", [True, False])
def test_the_served_form_scores_as_the_trained_one(parts: tuple[str, ...], learned_arrivals: bool) -> None:
    config = replace(
        SHAPE,
        features=("a", "b", "c", "d"),
        sold_features=("a", "c"),
        sales="b",
        history="d",
        newcomer_features=("a", "b"),
        learned_arrivals=learned_arrivals,
        hidden=(8, 5),
        parts=parts,
    )
    rng = np.random.default_rng(7)
    network = ScorerNetwork(config).eval()
    features = rng.normal(size=(60, 4)).astype(np.float32) * 5
    features[:, 1] = rng.integers(0, 2, 60)  # sold or not
    features[:, 3] = rng.integers(0, 2, 60)  # with a history or not
    network.standardise(features)
    with torch.no_grad():
        network.newcomer.copy_(torch.tensor([0.5, -1.0, 0.25]))
        network.platt.copy_(torch.tensor([0.5, -2.0]))
        for value in network.parameters():
            value.add_(torch.from_numpy(rng.normal(size=value.shape).astype(np.float32)) * 0.2)
    users, items = rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=(7, 6)).astype(np.float32)
    user, item = rng.integers(0, 5, 60), rng.integers(0, 7, 60)
    cosine = rng.uniform(-1, 1, 60).astype(np.float32)
    served = network.frozen()
    numbers = served.score(served.project(users), served.project(items), user, item, cosine, features)
    with torch.no_grad():
        tensors = score_of(
            network,
            network.project(torch.from_numpy(users)),
            network.project(torch.from_numpy(items)),
            *(torch.from_numpy(array) for array in (user, item, cosine, features)),
        )
    np.testing.assert_allclose(numbers.logit, tensors.logit.numpy(), atol=1e-4)
    np.testing.assert_allclose(numbers.mlp, tensors.mlp.numpy(), atol=1e-4)
    probabilities = 1 / (1 + np.exp(2.0 - 0.5 * tensors.logit.numpy()))
    np.testing.assert_allclose(served.probability(numbers.logit), probabilities, atol=1e-5)
    assert len({round(float(x), 3) for x in numbers.mlp}) > 5  # all three kinds of pair say something


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train again"):
        load_scorer(tmp_path)
    save_scorer(ScorerNetwork(SHAPE).frozen(), tmp_path)
    config = json.loads((tmp_path / "scorer.json").read_text())
    (tmp_path / "scorer.json").write_text(json.dumps({**config, "projection": 5}))
    with pytest.raises(ModelError):
        load_scorer(tmp_path)
    (tmp_path / "scorer.json").write_text(json.dumps(config))
    (tmp_path / "scorer.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError):
        load_scorer(tmp_path)


@pytest.mark.parametrize("part", ["cosine", "vectors", "features"])
def test_a_part_that_is_left_out_changes_no_score(part: str) -> None:
    kept = tuple(p for p in PARTS if p != part)
    scorer = ScorerNetwork(replace(SHAPE, parts=kept))
    rng = np.random.default_rng(3)
    scorer.standardise(rng.normal(size=(50, 3)))

    def logits(**changed: torch.Tensor) -> torch.Tensor:
        given = {
            "vectors": torch.from_numpy(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)),
            "cosine": torch.linspace(-1, 1, 4),
            "features": torch.from_numpy(np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)),
        } | changed
        side, rows = scorer.project(given["vectors"]), torch.arange(4)
        return score_of(scorer, side, side, rows, rows, given["cosine"], given["features"]).logit.detach()

    other = {"vectors": torch.ones(4, 6), "cosine": torch.full((4,), 0.3), "features": torch.full((4, 3), 2.0)}
    for name, value in other.items():
        assert torch.allclose(logits(), logits(**{name: value})) == (name == part)


def test_what_never_sold_has_heads_of_its_own() -> None:
    scorer = ScorerNetwork(replace(SHAPE, sold_features=("a",), sales="c"))
    rows, side = torch.arange(2), scorer.project(torch.ones(2, 6))

    def score(features: list[list[float]]) -> torch.Tensor:
        return score_of(scorer, side, side, rows, rows, torch.zeros(2), torch.tensor(features)).logit.detach()

    before = score([[1.0, 2.0, 0.0], [1.0, 2.0, 5.0]])
    with torch.no_grad():
        for value in scorer.arrival_mlps.parameters():
            value.add_(0.5)
    after = score([[1.0, 2.0, 0.0], [1.0, 2.0, 5.0]])
    assert before[0] != after[0] and before[1] == after[1]
    assert score([[1.0, 2.0, 0.0], [1.0, 9.0, 5.0]])[1] == after[1]  # the sold item does not read b


def test_a_person_who_has_done_nothing_gets_the_linear_score_whatever_the_cosine() -> None:
    scorer = ScorerNetwork(replace(SHAPE, newcomer_features=("a", "b"), history="c"))
    scorer.newcomer.copy_(torch.tensor([2.0, -1.0, 0.5]))
    rows, side = torch.arange(2), scorer.project(torch.ones(2, 6))
    cosine, features = torch.tensor([0.9, 0.9]), torch.tensor([[1.0, 3.0, 0.0], [1.0, 3.0, 4.0]])
    score = score_of(scorer, side, side, rows, rows, cosine, features)
    assert torch.isclose(score.logit[0], torch.tensor(2 * 1 - 3 + 0.5))
    assert not torch.isclose(score.logit[1], score.logit[0])


def test_without_anybody_to_learn_from_newcomers_get_what_sells() -> None:
    weights = cold_start_weights([], 1.0)
    assert weights[0] == 1 and not weights[1:].any()


def test_rates_are_found_again_from_counts_and_from_a_weighed_sample_of_them() -> None:
    rng, true = np.random.default_rng(0), np.array([0.8, -0.5, -3.0])
    x = rng.normal(size=(200_000, 2))
    label = (rng.random(len(x)) < np.exp(x @ true[:2] + true[2])).astype(np.float64)
    start = np.array([1.0, 0.0, 0.0])
    assert np.allclose(poisson(x, label, np.zeros(len(x)), start, 1.0), true, atol=0.05)
    kept = (label > 0) | (rng.random(len(x)) < 0.1)  # one negative of ten, which stands for ten
    weight = np.where(label > 0, 0.0, np.log(10.0))[kept]
    assert np.allclose(poisson(x[kept], label[kept], weight, start, 1.0), true, atol=0.05)


def test_too_little_to_learn_from_leaves_popularity() -> None:
    x, label = np.array([[2.0, 1.0], [1.0, 0.0]]), np.array([1.0, 0.0])
    weights = poisson(x, label, np.zeros(2), np.array([1.0, 0.0, 0.0]), 1.0)
    assert abs(weights[0] - 1) < 0.3 and abs(weights[1]) < 0.3
