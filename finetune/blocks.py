"""Tune the last blocks of the encoder by LoRA, or all of them, and judge it by text alone, without the scorer.

    python finetune/blocks.py --parts DIR -o eval/results/lora-blocks.json

`recllm train --lora` learns from pairs of single items. Here the mean of a customer's last three to five texts is to be
near to the text that the customer buys next for the first time, by the in-batch softmax, before the validation window.
Then the purchases of the window are ranked by the product of an item's vector with the mean of what the customer
bought, as the vectors are ("plain") and less the mean of all texts that sold ("centred"): NEW and COLD of or-next28,
MASKED of beauty-loo. `ahead` is the difference to the untuned encoder ("0 blocks") and to fewer blocks, with the 95 %
interval of a paired bootstrap over people.

`search`, of or-next28 alone, whose titles end in their noun: the precision of the first ten texts for that noun, such
as "mug", where at least eight texts end in it; these count as right. Each log's figures stay in --parts, so a run that
was stopped goes on.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.rnn import pad_sequence

sys.path.append(str(Path(__file__).resolve().parents[1] / "eval"))

from inputs import finish, finished_parts, say, script_parser, window_of
from published import BENCHMARKS

from recllm.base.arrays import Ints
from recllm.base.schema import Action
from recllm.learn.training.lora.examples import SCALE
from recllm.recommend.evaluation.baselines import zero_shot
from recllm.recommend.evaluation.benchmarks import with_quantity
from recllm.recommend.evaluation.protocols import COLD, MASKED, NEW, OURS, EvaluationWindow, System, next_purchases
from recllm.recommend.evaluation.report import evaluate
from recllm.shop.data.dataset import Events
from recllm.text.encoder.adapters import AdapterSpec, attach
from recllm.text.encoder.batches import distinct, plan_batches
from recllm.text.encoder.huggingface import HuggingFaceEncoder
from recllm.text.encoder.loading import DEFAULT_ENCODER, find_weights
from recllm.text.items import item_texts

LOGS = ("or-next28", "beauty-loo")
RANK, LEARNING_RATE, WARMUP_STEPS = 8, 3e-4, 15
FEWEST, MOST = 3, 5
"""Texts of a customer that are averaged."""
SEARCHED, LEAST_TEXTS, FOUND = "or-next28", 8, 10
"""Log; texts that end in a searched word, at least; texts of an answer."""


def main() -> None:
    parser = script_parser(__doc__, "data", "seed")
    parser.add_argument("--logs", nargs="+", default=LOGS, choices=LOGS)
    parser.add_argument("--blocks", type=int, nargs="+", default=(2, 6), help="from the output; the encoder has 6")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--customers", type=int, default=64, help="of a step")
    parser.add_argument("--parts", type=Path, required=True, help="folder of the figures of finished logs")
    args = parser.parse_args()
    done = finished_parts(args.parts, args.logs, lambda log: measure(log, args))
    figures = {log: part["figures"] for log, part in done.items()}
    record = {
        "protocol": "lora-blocks",
        **{name: getattr(args, name) for name in ("seed", "steps", "customers")},
        "data_hash": {log: of_log["data_hash"] for log, of_log in figures.items()},
        "rows": [row for of_log in figures.values() for row in of_log["rows"]],
        "ahead": [row for of_log in figures.values() for row in of_log["ahead"]],
        "commits": sorted({part["commit"] for part in done.values()}),
    }
    finish(record, args.output)


def measure(log: str, args: Namespace) -> dict[str, Any]:
    """Figures of a log with each number of blocks, the untuned encoder's first."""
    window, k = validation_window(log, args), BENCHMARKS[log].k
    texts, text_of = distinct(item_texts(window.dataset.items))
    purchases = window.fit_on.events.of(Action.PURCHASE)
    rows, ahead, systems = [], [], {"plain": dict[str, System](), "centred": dict[str, System]()}
    for blocks in (0, *args.blocks):
        began, encoder = time.process_time(), HuggingFaceEncoder(find_weights(DEFAULT_ENCODER), device="cpu")
        if blocks:
            tune(encoder, texts, text_of, purchases, blocks, args)
        plain = encoder.encode(texts)
        sold = plain[np.unique(text_of[purchases.item])].mean(axis=0)
        of_log: dict[str, Any] = {"log": log, "blocks": blocks}
        found = {"search": search(encoder, texts)} if log == SEARCHED else {}
        seconds = round(time.process_time() - began)
        for kind, vectors in (("plain", plain), ("centred", plain - sold)):
            system, about = System(rank=zero_shot(vectors[text_of])), of_log | {"vectors": kind}
            report = evaluate(window, {OURS: system, **systems[kind]}, k=k, seed=args.seed)
            scores = {name: figures[f"ndcg@{k}"] for name, figures in report.systems[OURS].items()}
            rows.append(about | {"metric": f"ndcg@{k}"} | scores | found | {"cpu_seconds": seconds})
            ahead += [
                about | {"of": d.peer, "slice": d.slice, "mean": d.mean, "low": d.low, "high": d.high}
                for d in report.differences
                if d.metric == f"ndcg@{k}"
            ]
            systems[kind][f"{blocks} blocks"] = system
    return {"data_hash": window.data_hash, "rows": rows, "ahead": ahead}


def validation_window(log: str, args: Namespace) -> EvaluationWindow:
    """What was not bought before: of a log with times what is new to the customer, and what is new in the shop."""
    window = window_of(log, args, validation=True)
    if not BENCHMARKS[log].by_time:
        return window.only([MASKED])
    dataset = with_quantity(BENCHMARKS[log].log(args.data))
    return next_purchases(
        dataset, start=window.dataset.as_of, end=window.until, protocol=window.protocol, slices=(NEW, COLD)
    )


def tune(
    encoder: HuggingFaceEncoder, texts: Sequence[str], text_of: Ints, events: Events, blocks: int, args: Namespace
) -> None:
    """Attaches an adapter to the encoder and learns it. text_of: row in `texts` of each item."""
    spec = AdapterSpec.of(encoder.model, encoder.weights.name, encoder.base_hash, RANK, blocks)
    encoder.model = attach(encoder.model.requires_grad_(False), spec, seed=args.seed)
    parameters = [parameter for parameter in encoder.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.0)
    pace = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARMUP_STEPS, max(0.05, 1 - step / args.steps))
    )
    tokens, text, rng = encoder.tokens.ids(texts, "document"), text_of[events.item], np.random.default_rng(args.seed)
    begins = events.indptr[events.user]
    first = np.unique(events.user * len(texts) + text, return_index=True)[1]  # events: a text that is new to its user
    first = first[first - begins[first] >= FEWEST]
    chance = 1 / np.bincount(events.user[first])[events.user[first]]  # each user is drawn as often
    for step in range(args.steps):
        drawn = rng.choice(first, args.customers, p=chance / chance.sum())
        starts = np.maximum(begins[drawn], drawn - rng.integers(FEWEST, MOST + 1, args.customers))
        histories = [text[start:end] for start, end in zip(starts, drawn, strict=True)]
        needed, row = np.unique(np.concatenate([text[drawn], *histories]), return_inverse=True)
        vectors = embed(encoder, [tokens[number] for number in needed])
        of_users = np.split(row[len(drawn) :], np.cumsum(drawn - starts)[:-1])
        users = torch.stack([vectors[rows].mean(dim=0) for rows in of_users])
        logits = SCALE * normalize(users) @ vectors[row[: len(drawn)]].T
        alike = (text[drawn] == text[drawn][:, None]) & ~np.eye(len(drawn), dtype=bool)
        loss = cross_entropy(logits.masked_fill(torch.from_numpy(alike), -torch.inf), torch.arange(len(drawn)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        pace.step()
        if step % 20 == 19:
            say("%d blocks, step %d: loss %.3f", blocks, step + 1, loss.item())


def embed(encoder: HuggingFaceEncoder, tokens: list[list[int]]) -> torch.Tensor:
    """Unit rows with a graph, (len(tokens), dim)."""
    batches = list(plan_batches(np.array([len(ids) for ids in tokens])))
    parts = []
    for batch in batches:
        ids = [torch.tensor(tokens[row]) for row in batch]
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        padded = pad_sequence(ids, batch_first=True, padding_value=encoder.tokens.pad)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = encoder.model(input_ids=padded, attention_mask=mask)[0]
        parts.append(encoder.pooled(hidden, mask))
    return torch.cat(parts)[np.argsort(np.concatenate(batches))]


def search(encoder: HuggingFaceEncoder, texts: Sequence[str]) -> float:
    """Mean precision of the first ten texts for each word, of as many as are right where these are fewer."""
    rows_of_word = defaultdict(list)
    for row, text in enumerate(texts):
        rows_of_word[text.lower().split()[-1]].append(row)
    words = {word: rows for word, rows in rows_of_word.items() if word.isalpha() and len(rows) >= LEAST_TEXTS}
    nearness = encoder.encode(list(words), kind="query") @ encoder.encode(texts).T  # (n_words, n_texts)
    best = np.argsort(-nearness, axis=1, kind="stable")[:, :FOUND]
    right = [np.isin(line, rows).sum() / min(FOUND, len(rows)) for line, rows in zip(best, words.values(), strict=True)]
    return float(np.mean(right))


if __name__ == "__main__":
    main()
