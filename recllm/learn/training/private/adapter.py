"""LoRA of the text encoder under user-level differential privacy.

A user's example is a past window: the texts of their heaviest items before it, some of what they first bought in it,
and items drawn from the catalogue. Every user has copies of texts of their own, so that a text's gradient is of one
user alone; temperature and weight of the score are constants, and only the adapter learns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recllm.base.errors import DataError
from recllm.base.schema import Encoder
from recllm.base.settings import LoraSettings, PrivateTrainingSettings
from recllm.learn.features.nobody import is_listed
from recllm.learn.training.arguments import LoraArguments
from recllm.learn.training.lora.tower import Tower
from recllm.learn.training.lora.tune import ADAPTER, trainable
from recllm.learn.training.private.accounting import PrivateMechanism
from recllm.learn.training.private.descent import AveragedWeights, PrivateDescent
from recllm.learn.training.private.examples import TARGET, log_end_day
from recllm.learn.training.private.head import AVERAGED_SHARE
from recllm.shop.data.dataset import DAY, USER_COLUMN, Dataset
from recllm.shop.data.interactions import Floats, Ints, Tally, decay, of_actions
from recllm.text.encoder.adapters import save_adapter
from recllm.text.encoder.batches import distinct
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import with_adapter
from recllm.text.items import item_texts

LEARNING_RATE = 1e-3
HISTORY_ITEMS = 6  # heaviest items of a user whose texts make the set
POSITIVES = 2  # items that the user first bought in a window, drawn where there are more
NEGATIVES = 12  # items drawn from the catalogue

SCALE, GAIN = 20.0, 0.5
"""Temperature and weight of the similarity, which `training.lora` learns and a private run leaves alone."""

PULL = 1.0
"""Weight of 1 - cos(e, e_base) over a user's texts, as `recllm.learn.training.lora.tune.PULL_WEIGHT`."""

HALF_LIFE_DAYS = 60.0
"""Of a purchase in the weights of a user's items."""

CHUNK = 16
"""Users whose texts go through the model at once."""


@dataclass(frozen=True, eq=False)
class TextExamples:
    """Examples of users, as text numbers, -1 where a row has fewer. user, (n,), is ascending."""

    user: Ints
    history: Ints
    """(n, HISTORY_ITEMS)."""
    log_weight: Floats
    """Of the history, (n, HISTORY_ITEMS); very low where there is none."""
    positives: Ints
    """(n, POSITIVES)."""
    listed: Ints
    """Text of each item of the catalogue, (n_listed,), from which negatives are drawn."""
    n_users: int

    def draw(self, users: Ints, chance: Floats) -> Ints:
        """Row of one example of each user, -1 for a user without any; chance: a number in [0, 1) for each."""
        first, last = (np.searchsorted(self.user, users, side=side) for side in ("left", "right"))
        return np.where(last > first, first + np.floor(chance * (last - first)).astype(np.int64), -1)


def tune_privately(
    dataset: Dataset,
    encoder: Encoder,
    settings: PrivateTrainingSettings,
    mechanism: PrivateMechanism,
    folder: Path,
    *,
    lora: LoraSettings | None = None,
    locale: str = "en",
    progress: Callable[[str], None] | None = None,
) -> Encoder:
    """The encoder with an adapter that was learned privately, and lies in `folder`/adapter.

    mechanism: what `planned_mechanisms` says of the adapter. lora: rank, alpha, layers and device of the adapter; its
    loop is that of `settings`. Raises `DataError` when there is nothing to learn from, `ModelError` for an encoder that
    takes no adapter, and what `PrivateDescent` raises.
    """
    plain, lora = trainable(encoder), LoraArguments.layered(lora).model_copy(update={"precision": "float32"})
    texts, text_of = distinct(item_texts(dataset.items, locale))
    examples = text_examples(dataset, text_of.astype(np.int64), settings)
    device = lora.device or ("cuda" if torch.cuda.is_available() else "cpu")
    base = torch.from_numpy(encoder.encode(texts)).to(device)
    trained = HuggingFaceEncoder(
        plain.weights, max_length=plain.limit, prompts=plain.prompts, device=device, progress=False
    )
    tower = Tower(trained, texts, lora)
    tower.keep(np.unique(examples.listed))
    rng = np.random.default_rng()  # seeded by the system

    def losses(users: Ints) -> tuple[Tensor, Tensor]:
        rows = examples.draw(users, rng.random(len(users)).astype(np.float32))
        return user_losses(tower, base, examples, rows, NEGATIVES, rng)

    optimiser = torch.optim.Adam(tower.parameters, lr=LEARNING_RATE)
    descent = PrivateDescent(tower.model, optimiser, losses, dataset.n_users, mechanism, chunk=CHUNK)
    averaged = AveragedWeights(tower.parameters, mechanism.steps, AVERAGED_SHARE)
    tell = progress or (lambda _: None)
    tell(
        f"private adapter: {mechanism.steps} steps, noise {mechanism.noise_multiplier:.3g}, "
        f"epsilon {mechanism.epsilon:.3g}"
    )

    def after_step(number: int) -> None:
        averaged.after_step(number)
        if number % 10 == 0:
            tell(f"private adapter: step {number} of {mechanism.steps}")

    descent.run(after_step)
    averaged.put_back()
    save_adapter(tower.state(), tower.spec, folder / ADAPTER)
    return with_adapter(encoder, folder / ADAPTER)


def text_examples(dataset: Dataset, text_of: Ints, settings: PrivateTrainingSettings) -> TextExamples:
    """Examples of all users; each a function of that user's own events, the catalogue and the settings.

    text_of: text number of each item, (n_items,). Raises `DataError` when nobody bought anything new in any window.
    """
    end, horizon = log_end_day(dataset.as_of), settings.horizon_days * DAY
    listed, purchases = is_listed(dataset.items), of_actions(dataset.events, TARGET)
    tally = Tally.of(purchases.user, purchases.item, dataset.n_items)
    first_bought = tally.smallest(purchases.at)
    rows: list[tuple[int, list[int], list[float], list[int]]] = []
    for number in range(settings.n_windows):
        start = end - (number + 1) * horizon
        is_new = (first_bought >= start) & (first_bought < start + horizon) & listed[tally.key]
        past = purchases.select((purchases.at < start) & listed[purchases.item])
        for user in np.unique(tally.user[is_new]).tolist():
            run = slice(past.indptr[user], past.indptr[user + 1])
            if run.start == run.stop:
                continue
            items, group = np.unique(past.item[run], return_inverse=True)
            weight = np.bincount(group, decay(past.at[run], start, HALF_LIFE_DAYS))
            heaviest = np.lexsort((items, -weight))[:HISTORY_ITEMS]
            bought = tally.key[is_new][slice(*np.searchsorted(tally.user[is_new], [user, user + 1]))]
            seed = [settings.seed, number, zlib.crc32(str(dataset.users[USER_COLUMN][user]).encode())]
            drawn = np.random.default_rng(seed).permutation(bought)[:POSITIVES]
            shares = np.log(weight[heaviest] / max(weight[heaviest].sum(), 1e-30) + 1e-9)
            rows.append((user, text_of[items[heaviest]].tolist(), shares.tolist(), text_of[drawn].tolist()))
    if not rows:
        raise DataError("in no past window did anybody with a history buy something new, so no adapter can be learned")
    rows.sort(key=lambda row: row[0])
    history = np.full((len(rows), HISTORY_ITEMS), -1, np.int64)
    log_weight = np.full((len(rows), HISTORY_ITEMS), -1e9, np.float32)
    positives = np.full((len(rows), POSITIVES), -1, np.int64)
    for number, (_, history_texts, log_shares, bought_texts) in enumerate(rows):
        history[number, : len(history_texts)], log_weight[number, : len(history_texts)] = history_texts, log_shares
        positives[number, : len(bought_texts)] = bought_texts
    user = np.array([row[0] for row in rows], np.int64)
    return TextExamples(user, history, log_weight, positives, text_of[np.flatnonzero(listed)], dataset.n_users)


def user_losses(
    tower: Tower, base: Tensor, examples: TextExamples, rows: Ints, n_negatives: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The loss of each example, (n,), 0 for the row -1, and for each text that goes through the model whose it is."""
    n, has = len(rows), rows >= 0
    rows = np.maximum(rows, 0)
    history, positives = examples.history[rows], examples.positives[rows]
    negatives = examples.listed[rng.integers(len(examples.listed), size=(n, n_negatives))]
    texts = np.concatenate([history, positives, negatives], axis=1)
    n_history, n_positives, per_user = history.shape[1], positives.shape[1], texts.shape[1]
    unit = tower.at_once(texts.clip(0).ravel()).reshape(n, per_user, -1)
    device = unit.device
    weight = torch.from_numpy(examples.log_weight[rows]).to(device)
    nearness = SCALE * (unit[:, :n_history] @ unit[:, n_history:].transpose(1, 2) - 1)  # (n, history, candidates)
    score = GAIN * torch.logsumexp(nearness + weight[:, :, None], dim=1)
    stands_for = float(np.log(len(examples.listed) / n_negatives))
    against = torch.logsumexp(score[:, n_positives:], dim=1, keepdim=True) + stands_for
    right = score[:, :n_positives]
    is_positive = torch.from_numpy(positives >= 0).to(device)
    each = (torch.logaddexp(against, right) - right) * is_positive
    loss = each.sum(dim=1) / is_positive.sum(dim=1).clamp(min=1)
    is_text = torch.from_numpy(texts >= 0).to(device)
    cosine = (unit * base[torch.from_numpy(texts.clip(0)).to(device)]).sum(dim=2)
    loss = loss + PULL * ((1 - cosine) * is_text).sum(dim=1) / is_text.sum(dim=1)
    owner = torch.arange(n, device=device).repeat_interleave(per_user)
    return torch.where(torch.from_numpy(has).to(device), loss, torch.zeros_like(loss)), owner
