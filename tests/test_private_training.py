"""Learning under user-level differential privacy: what reaches the score, what a step does, what is paid, what attacks
see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import membership
import numpy as np
import pytest
import torch
from conftest import Command
from retrain_world import make_shop
from shop_world import shop, vectors

from recllm.base.errors import MissingExtraError, ModelError, PolicyError, StoreError, UsageError
from recllm.base.settings import CollaborativeSettings, PrivateTrainingSettings
from recllm.doors.privacy.erasure import erase_people
from recllm.learn.features.candidates import candidates
from recllm.learn.features.collaborative import ask
from recllm.learn.features.other_crowds import PRIVATE_CANDIDATES, PRIVATE_FEATURES, crowd_of_nobody, is_listed
from recllm.learn.features.pair_features import FEATURE_NAMES, pair_features
from recllm.learn.training.arguments import LoraArguments
from recllm.learn.training.private.accounting import (
    PrivacyGuarantee,
    PrivateMechanism,
    delta_for,
    epsilon_of,
    noise_for,
    planned_mechanism,
)
from recllm.learn.training.private.descent import PrivateDescent
from recllm.learn.training.private.examples import TARGET, UserWindows, user_windows
from recllm.learn.training.private.head import (
    HeadExamples,
    HeadNetwork,
    averaged,
    fit_private_scorer,
    learn_privately,
    main_directions,
    served_scorer,
)
from recllm.recommend.evaluation.retrain import RetrainOutcome, model_history, retrain
from recllm.recommend.recommender.lineage import CheckKind
from recllm.recommend.recommender.private_model import private_population
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.registry import mark_tainted, taints
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.train import train_privately, train_workspace, tune_workspace
from recllm.shop.data.dataset import Dataset
from recllm.shop.workspace.privacy_ledger import LEDGER_FILE, PrivacyLedger
from recllm.shop.workspace.workspace import Workspace, overridden
from recllm.text.encoder.toy import ToyEncoder

pytest.importorskip("opacus")

DATA = shop()
VECTORS = vectors(DATA)
SETTINGS = PrivateTrainingSettings(horizon_days=14, n_windows=3, steps=12, sampling_rate=0.3)
COUNTED = CollaborativeSettings(target=TARGET)


def mechanism(noise: float = 1.0, *, rate: float = 0.3, steps: int = 12, norm: float = 1.0) -> PrivateMechanism:
    return PrivateMechanism(
        part="scorer",
        epsilon=1.0,
        delta=1e-3,
        accountant="rdp",
        epsilon_prv=1.0,
        epsilon_rdp=1.0,
        noise_multiplier=noise,
        sampling_rate=rate,
        steps=steps,
        max_grad_norm=norm,
    )


@pytest.fixture(scope="module")
def windows() -> UserWindows:
    return user_windows(DATA, VECTORS, None, SETTINGS, COUNTED)


@pytest.fixture(scope="module")
def examples(windows: UserWindows) -> HeadExamples:
    return HeadExamples.of(windows, VECTORS, main_directions(VECTORS, 3))


def network(hidden: int = 4) -> HeadNetwork:
    return HeadNetwork(3, hidden, DATA.n_items, seed=0)


# --- what reaches the score ------------------------------------------------------------------------------------------


def without(dataset: Dataset, user: int) -> Dataset:
    return replace(dataset, events=dataset.events.select(dataset.events.user != user))


def changed(dataset: Dataset, user: int) -> Dataset:
    """Another user bought other things, often, and for other prices."""
    e, of_user = dataset.events, dataset.events.user == user
    item = np.where(of_user, (e.item + 5) % dataset.n_items, e.item).astype(np.int32)
    price = np.where(of_user, 999.0, e.price).astype(np.float32)
    return replace(dataset, events=replace(e, item=item, price=price))


@pytest.mark.parametrize("edit", [without, changed])
def test_nothing_that_another_user_did_reaches_what_is_learned_from_a_user(edit: Any, windows: UserWindows) -> None:
    other = 3
    after = user_windows(edit(DATA, other), VECTORS, None, SETTINGS, COUNTED)
    rows, rows_after = windows.user != other, after.user != other
    assert rows.sum() > 60
    for field in fields(UserWindows):
        if field.name != "n_users":
            before, now = getattr(windows, field.name)[rows], getattr(after, field.name)[rows_after]
            assert before.tobytes() == now.tobytes(), field.name


def test_a_user_who_is_not_there_changes_nothing_of_the_others() -> None:
    frame = {
        "user_id": DATA.users["user_id"].gather(DATA.events.user),
        "item_id": DATA.items["item_id"].gather(DATA.events.item),
        "timestamp": DATA.events.at,
    }
    import polars as pl

    everybody = pl.DataFrame(frame)
    gone = DATA.users["user_id"][7]
    of = [
        Dataset.construct(rows, items=DATA.items, as_of=DATA.as_of)
        for rows in (everybody, everybody.filter(pl.col("user_id") != gone))
    ]
    first, second = (user_windows(one, VECTORS, None, SETTINGS, COUNTED) for one in of)
    names = [one.users["user_id"].to_list() for one in of]
    assert gone in names[0] and gone not in names[1]
    by_name = [
        {(names[n][int(u)], int(s)): row for row, (u, s) in enumerate(zip(w.user, w.start, strict=True))}
        for n, w in enumerate((first, second))
    ]
    for key, row in by_name[1].items():
        assert first.features[by_name[0][key]].tobytes() == second.features[row].tobytes()
        assert first.item[by_name[0][key]].tobytes() == second.item[row].tobytes()


@pytest.mark.parametrize("edit", [without, changed])
def test_answers_do_not_depend_on_other_users_either(edit: Any, examples: HeadExamples) -> None:
    scorer = served_scorer(network(), main_directions(VECTORS, 3))
    columns = [FEATURE_NAMES.index(name) for name in PRIVATE_FEATURES]
    seen = []
    for data in (DATA, edit(DATA, 3)):
        population = private_population(data.items, VECTORS, data.as_of, scorer, COUNTED)
        batch = ask(population, data.events.rows(np.array([8])), data.as_of, user_rows=np.array([8]))
        pairs = candidates(batch, PRIVATE_CANDIDATES)
        table = pair_features(batch, pairs)[:, columns]
        seen.append((pairs.item.tobytes(), table.tobytes(), batch.vectors.user.tobytes(), population.popular.tobytes()))
    assert seen[0] == seen[1]


def test_a_crowd_feature_would_be_noticed() -> None:
    """The same comparison over statistics that counted people: it tells the two logs apart."""
    column = FEATURE_NAMES.index("buyers_ever")
    seen = []
    for data in (DATA, without(DATA, 3)):
        population = Recommender(data, ToyEncoder()).population
        batch = ask(population, data.events.rows(np.array([9])), data.as_of, user_rows=np.array([9]))
        seen.append(pair_features(batch, candidates(batch))[:, column])
    assert seen[0].shape != seen[1].shape or not np.array_equal(*seen)


def test_a_scale_or_a_direction_is_no_mean_over_people(examples: HeadExamples) -> None:
    of = [
        fit_private_scorer(data, VECTORS, None, SETTINGS, mechanism()).scorer.weights
        for data in (DATA, changed(DATA, 3))
    ]
    for name in ("mean", "scale", "projection.weight", "platt"):
        assert of[0][name].tobytes() == of[1][name].tobytes()
    assert of[0]["mlps.0.0.weight"].tobytes() != of[1]["mlps.0.0.weight"].tobytes()


def test_items_of_which_only_events_tell_are_never_shown_as_negatives() -> None:
    bare = shop(bare=True)
    assert not is_listed(bare.items).any() and is_listed(DATA.items).all()


def test_the_served_form_says_what_the_network_says(examples: HeadExamples) -> None:
    directions = main_directions(VECTORS, 3)
    net = network()
    learn_privately(net, examples, SETTINGS, mechanism(0.5))
    scorer = served_scorer(net, directions)
    start = int(examples.windows.start[0])
    past, user = DATA.before(start), int(examples.windows.user[0])
    batch = ask(crowd_of_nobody(DATA.items, VECTORS, start, COUNTED), past.events.rows(np.array([user])), start)
    pairs = candidates(batch, PRIVATE_CANDIDATES)
    users, vectors_of = scorer.project(batch.vectors.user), scorer.project(VECTORS)
    cosine = np.asarray([VECTORS[i] @ batch.vectors.user[0] for i in pairs.item], np.float32)
    logit = scorer.score(users, vectors_of, pairs.user, pairs.item, cosine, pair_features(batch, pairs)).logit
    with torch.no_grad():
        raw = examples.logits(net, np.array([0]))[0].numpy()
    of_example = zip(examples.windows.item[0], raw, examples.windows.is_pair[0], strict=True)
    row = {int(i): float(v) for i, v, is_pair in of_example if is_pair}
    both = [(float(v), row[int(i)]) for i, v in zip(pairs.item, logit, strict=True) if int(i) in row]
    assert len(both) > 5
    np.testing.assert_allclose(*zip(*both, strict=True), atol=1e-3)


# --- a step ----------------------------------------------------------------------------------------------------------


def descent(net: HeadNetwork, examples: HeadExamples, how: PrivateMechanism, **options: Any) -> PrivateDescent:
    def losses(users: np.ndarray) -> torch.Tensor:
        return examples.losses(net, examples.draw(users, np.full(len(users), 0.5)))

    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    return PrivateDescent(net, optimiser, losses, examples.windows.n_users, how, **options)


def test_each_user_has_the_gradient_of_a_loop_one_by_one(examples: HeadExamples) -> None:
    net, users = network(), np.array([0, 4, 9, 17])
    loop = descent(net, examples, mechanism())
    loop.model.train()
    loop.gradients(users)
    of_all = {name: p.grad_sample.clone() for name, p in net.named_parameters()}
    loop.close()
    for number, user in enumerate(users.tolist()):
        net.zero_grad()
        examples.losses(net, examples.draw(np.array([user]), np.array([0.5]))).sum().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(of_all[name][number], parameter.grad, atol=1e-5, rtol=1e-4)


def test_the_sum_is_that_of_shortened_gradients_and_noise(examples: HeadExamples) -> None:
    net, users = network(), np.arange(20)
    loop = descent(net, examples, mechanism(0.5, norm=0.01), generator=torch.Generator().manual_seed(1), chunk=7)
    loop.model.train()
    loop.gradients(users)
    samples = torch.cat([p.grad_sample.flatten(1) for p in net.parameters()], dim=1)
    shortened = samples * (0.01 / (samples.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
    loop.step(users)  # in three chunks
    noisy = torch.cat([p.grad.flatten() for p in net.parameters()])
    draw = torch.Generator().manual_seed(1)
    noise = torch.cat([torch.normal(0.0, 0.005, p.shape, generator=draw).flatten() for p in net.parameters()])
    loop.close()
    torch.testing.assert_close(noisy, shortened.sum(dim=0) + noise, atol=1e-5, rtol=1e-3)


def test_a_step_that_draws_nobody_is_made_of_noise(examples: HeadExamples) -> None:
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    loop = descent(net, examples, mechanism(1.0, rate=1e-9, steps=5))
    loop.run()
    assert loop.n_drawn == [0] * 5
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not hasattr(next(net.parameters()), "grad_sample")


def test_tensors_that_are_not_watched_are_an_error(examples: HeadExamples) -> None:
    net = network()
    optimiser = torch.optim.Adam(network().parameters(), lr=0.01)
    with pytest.raises(ModelError, match="other tensors"):
        PrivateDescent(net, optimiser, lambda users: torch.zeros(len(users)), 4, mechanism())
    loop = descent(net, examples, mechanism())
    loop.hooks.disable_hooks()  # what a model that is moved after its hooks comes to
    with pytest.raises(ModelError, match="no gradient"):
        loop.step(np.arange(4))
    loop.close()
    mixed = PrivateDescent(
        net,
        torch.optim.Adam(net.parameters()),
        lambda users: examples.losses(net, users).mean(),
        4,
        mechanism(),
    )
    with pytest.raises(ModelError, match="one of their own"):
        mixed.step(np.arange(4))
    mixed.close()


def test_a_tensor_that_noise_alone_moved_is_an_error(examples: HeadExamples) -> None:
    net = network()
    loop = PrivateDescent(
        net, torch.optim.Adam(net.parameters()), lambda users: 0 * examples.losses(net, users), 9, mechanism()
    )
    with pytest.raises(ModelError, match="noise alone"):
        loop.run()


def test_one_users_broken_loss_harms_nobody(examples: HeadExamples) -> None:
    net = network()

    def losses(users: np.ndarray) -> torch.Tensor:
        return examples.losses(net, users) * torch.where(torch.from_numpy(users) == 2, torch.nan, 1.0)

    loop = PrivateDescent(net, torch.optim.Adam(net.parameters()), losses, 9, mechanism(rate=1.0, steps=3))
    loop.run()
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_two_runs_never_have_the_same_noise(examples: HeadExamples) -> None:
    of = []
    for _ in range(2):
        net = network()
        learn_privately(net, examples, SETTINGS, mechanism(1.0, rate=1.0, steps=1))
        of.append(net.linear.weight.detach().clone())
    assert not torch.equal(*of)


def test_weights_are_the_mean_of_the_last_steps() -> None:
    net = network()
    after_step = averaged(net, 4)
    for step in range(1, 5):
        net.linear.bias.data.fill_(step)
        after_step(step)
    assert net.linear.bias.item() == 3.5


# --- what it tells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.05, 300), (3.0, 0.1, 200), (0.8, 0.01, 500)])
def test_epsilon_is_that_of_another_library(noise: float, rate: float, steps: int) -> None:
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import pld, rdp

    event = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise))
    for name, theirs in (("prv", pld.PLDAccountant()), ("rdp", rdp.RdpAccountant())):
        theirs.compose(event, steps)
        ours = epsilon_of(name, noise=noise, sampling_rate=rate, steps=steps, delta=1e-5)  # type: ignore[arg-type]
        assert ours == pytest.approx(theirs.get_epsilon(1e-5), rel=0.05)


@pytest.mark.parametrize("name", ["prv", "rdp"])
def test_the_noise_is_just_enough(name: Any) -> None:
    loop = {"sampling_rate": 0.05, "steps": 100, "delta": 1e-4}
    noise = noise_for(name, epsilon=2.0, **loop)
    assert 1.9 < epsilon_of(name, noise=noise, **loop) <= 2.0


def test_epsilons_of_several_mechanisms_add_up() -> None:
    """As in models whose encoder was trained privately too, which earlier versions made."""
    one = planned_mechanism(1_000, PrivateTrainingSettings(epsilon=2.0))
    of_both = PrivacyGuarantee.of((one.model_copy(update={"part": "adapter"}), one))
    assert 3.9 < of_both.epsilon <= 4.0 and of_both.delta == pytest.approx(2e-4)
    assert one.epsilon_prv <= one.epsilon_rdp


def test_delta_stays_below_one_in_all_users() -> None:
    assert delta_for(2_469, PrivateTrainingSettings()) == 1e-5
    with pytest.raises(UsageError, match="not below 1 / users"):
        delta_for(100, PrivateTrainingSettings(delta=0.01))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtraError, match=r"recllm\[privacy\]"):
        planned_mechanism(100, PrivateTrainingSettings())


# --- the ledger ------------------------------------------------------------------------------------------------------

LIMITS = PrivateTrainingSettings(total_epsilon=10.0)


def test_a_budget_ends_hard(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path)
    for _ in range(2):
        ledger.spend(4.0, 1e-4, [mechanism()], LIMITS, 100)
    assert ledger.budget(LIMITS, 100).epsilon_left == 2.0
    before = ledger.path.read_bytes()
    with pytest.raises(PolicyError, match=r"spent epsilon 8 of 10 .* --set privacy\.epsilon=2 or less") as refusal:
        ledger.spend(4.0, 1e-4, [mechanism()], LIMITS, 100)
    assert refusal.value.exit_code == 4 and ledger.path.read_bytes() == before
    ledger.spend(2.0, 1e-4, [mechanism()], LIMITS, 100)
    with pytest.raises(PolicyError, match=r"Raise privacy\.total_epsilon"):
        ledger.spend(0.1, 1e-4, [mechanism()], LIMITS, 100)
    assert ledger.path.read_bytes().startswith(before)
    assert [s.epsilon for s in PrivacyLedger(tmp_path).spendings()] == [4.0, 4.0, 2.0]


def test_delta_has_a_budget_too(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"privacy\.delta to 0\.01 or less"):
        PrivacyLedger(tmp_path).spend(1.0, 0.02, [mechanism()], LIMITS, 100)
    assert not (tmp_path / LEDGER_FILE).exists()


@pytest.mark.parametrize("damage", [b'{"run": "a"}\n', b'{"run":', b"\n", b"\xff\n"])
def test_a_damaged_ledger_is_no_empty_one(tmp_path: Path, damage: bytes) -> None:
    ledger = PrivacyLedger(tmp_path)
    ledger.spend(4.0, 1e-4, [mechanism()], LIMITS, 100)
    with ledger.path.open("ab") as stream:
        stream.write(damage)
    with pytest.raises(StoreError, match="put back a copy"):
        ledger.spend(1.0, 1e-4, [mechanism()], LIMITS, 100)


# --- a workspace -----------------------------------------------------------------------------------------------------

QUICK = {"privacy": {"steps": 8, "horizon_days": 14, "total_epsilon": 10.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_shop(tmp_path / "shop", range(12), people=40)
    return tmp_path / "shop"


def test_a_shop_is_trained_privately_from_the_command_line(folder: Path, command: Command) -> None:
    options = [word for name, value in QUICK["privacy"].items() for word in ("--set", f"privacy.{name}={value}")]
    code, out, err = command("train", "--private", "--set", "privacy.epsilon=6", "-w", str(folder), "--json", *options)
    assert code == 0, err
    version = json.loads(out)["model_version"]
    model = load_model(folder / "models")
    assert model.version == version and model.metrics == {} and model.privacy is not None
    assert model.interests is None
    told = json.loads((folder / "models" / "versions" / version / "model.json").read_text())["privacy"]
    assert 5.9 < told["epsilon"] <= 6 and told["unit"] == "user" and told["accountant"] == "prv"
    assert any("goes together" in line for line in told["not_covered"])
    with Workspace.open(str(folder)) as workspace:
        (record,) = model_history(workspace).versions
        assert record.lineage is not None and record.lineage.privacy == model.privacy
    code, out, _ = command("models", "list", "-w", str(folder))
    assert code == 0 and "epsilon 5.9" in out
    code, out, err = command("recommend", "--user", "u000", "--k", "3", "-w", str(folder), "--json")
    assert code == 0, err
    slate = json.loads(out)
    assert len(json.dumps(slate)) > 100 and version in out
    code, _, err = command("train", "--private", "--set", "privacy.epsilon=6", "-w", str(folder), *options)
    assert code == 4 and "nothing was trained" in err
    assert load_model(folder / "models").version == version


def test_a_private_model_serves_from_nobody(folder: Path) -> None:
    with overridden(QUICK), Workspace.open(str(folder)) as workspace:
        train_privately(workspace, epsilon=2.0, encoder=ToyEncoder())
        from recllm.recommend.recommender.shop_recommender import open_recommender

        recommender = open_recommender(workspace, encoder=ToyEncoder())
        assert not len(recommender.population.pool)
        assert not recommender.population.stats.buyers_ever.any()
        assert recommender.population.stats.buyers_28.std() > 0  # what the private score says of an unknown user
        assert recommender.recommend("u001", k=5)[0].items


def test_where_privacy_is_required_nothing_is_learned_without(folder: Path) -> None:
    required = {"privacy": QUICK["privacy"] | {"required": True}}
    with overridden(required), Workspace.open(str(folder)) as workspace:
        for refused in (
            lambda: train_workspace(workspace, private=False, encoder=ToyEncoder()),
            lambda: tune_workspace(workspace, LoraArguments()),
        ):
            with pytest.raises(PolicyError, match="--private"):
                refused()
        assert PrivacyLedger(folder).spendings() == ()
        train_workspace(workspace, encoder=ToyEncoder())
        assert load_model(workspace.models_dir).privacy is not None
        assert len(PrivacyLedger(folder).spendings()) == 1


def test_the_encoder_is_not_trained_privately(folder: Path) -> None:
    with Workspace.open(folder) as workspace, pytest.raises(UsageError, match="leave out --lora"):
        train_workspace(workspace, private=True, lora=LoraArguments())


def test_a_private_model_is_retrained_privately(folder: Path) -> None:
    """By age and erasure alone, with the epsilon that it had, and never without the ledger."""
    budget = {"privacy": QUICK["privacy"] | {"total_epsilon": 3.5}}
    with overridden(budget), Workspace.open(str(folder)) as workspace:
        first = train_privately(workspace, epsilon=1.0, encoder=ToyEncoder()).model_version
        report = retrain(workspace, needed=(), if_due=True, encoder=ToyEncoder())
        assert (report.outcome, report.challenger) == (RetrainOutcome.NOT_DUE, None)
        assert {check.kind for check in report.checks} == {CheckKind.AGE, CheckKind.ERASURE}
        with workspace.store().read() as reader:
            name = reader.users()["user_id"][0]
        erase_people(workspace, [name], actor="test", by_pseudonym=True)
        assert first in taints(workspace.models_dir)
        report = retrain(workspace, needed=(), if_due=True, encoder=ToyEncoder())
        assert (report.outcome, report.parent, report.gate) == (RetrainOutcome.PROMOTED, first, None)
        assert report.removed == (first,) and not taints(workspace.models_dir)
        assert load_model(workspace.models_dir).version == report.challenger
        (made,) = model_history(workspace).versions
        assert made.lineage is not None and made.lineage.parent == first and made.lineage.privacy is not None
        assert [round(spending.epsilon, 1) for spending in PrivacyLedger(folder).spendings()] == [1.0, 1.0]
        retrain(workspace, needed=(), encoder=ToyEncoder())
        with pytest.raises(PolicyError, match="nothing was trained"):
            retrain(workspace, needed=(), encoder=ToyEncoder())
        assert len(PrivacyLedger(folder).spendings()) == 3


def test_a_private_model_whose_use_has_ended_is_not_replaced_by_another_kind(folder: Path) -> None:
    with overridden(QUICK), Workspace.open(str(folder)) as workspace:
        first = train_privately(workspace, epsilon=1.0, encoder=ToyEncoder()).model_version
        ended = datetime.now(UTC) - timedelta(days=1)
        mark_tainted(workspace.models_dir, [first], at=ended, use_until=ended)
        report = retrain(workspace, needed=(), encoder=ToyEncoder())
        assert report.challenger is not None and load_model(workspace.models_dir).privacy is not None


def test_a_killed_training_is_paid_for(folder: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("private_child.py")), str(folder), "3.0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if "in training" in line:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    (spending,) = PrivacyLedger(folder).spendings()
    assert 2.9 < spending.epsilon <= 3.0
    assert not list((folder / "models" / "versions").glob("*")) if (folder / "models" / "versions").exists() else True


# --- attacks ---------------------------------------------------------------------------------------------------------


def test_members_of_an_overtrained_model_are_found_and_of_a_private_one_not(examples: HeadExamples) -> None:
    rng = np.random.default_rng(0)
    n_models, n_users = 8, examples.windows.n_users
    member = np.argsort(rng.random((n_models, n_users)), axis=0) < n_models // 2
    how = mechanism(3.0, rate=0.3, steps=20)

    def confidence(net: HeadNetwork) -> np.ndarray:
        first = examples.windows.first()[:-1]
        with torch.no_grad():
            return membership.logit_confidence(examples.losses(net, first).numpy().astype(np.float64) / 2)

    of: dict[str, list[np.ndarray]] = {"control": [], "private": []}
    for number in range(n_models):
        users = np.flatnonzero(member[number])
        net = network(32)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
        for _ in range(60):
            optimiser.zero_grad()
            examples.losses(net, examples.windows.first()[users]).mean().backward()
            optimiser.step()
        of["control"].append(confidence(net))
        net = network()
        learn_privately(net, examples, SETTINGS, how, users=users)
        of["private"].append(confidence(net))
    control, private = (
        membership.likelihood_ratio_attack(np.stack(of[name]), member) for name in ("control", "private")
    )
    assert control.auc > 0.7
    assert private.auc < control.auc - 0.1


def test_the_audit_bounds_what_is_guessed() -> None:
    rng = np.random.default_rng(0)
    included = rng.random(400) < 0.5
    assert membership.audited_epsilon(included + 0.1 * rng.random(400), included, 1e-5) > 3
    assert membership.audited_epsilon(rng.random(400), included, 1e-5) < 0.5
    # randomised response at epsilon 1: the bound is below the truth
    honest = rng.random(400) < np.e / (1 + np.e)
    answers = np.where(honest, included, ~included)
    assert membership.audited_epsilon(answers + 0.1 * rng.random(400), included, 0.0) <= 1.0
