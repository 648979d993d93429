"""Texts to vectors with and without a graph: the trained model, its unchanging lower part, and the bank of vectors.

Only the upper blocks are adapted, so what the lower ones make of a text never changes: it is computed once and kept.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recllm.learn.training.arguments import CopywriterArguments, LoraArguments
from recllm.text.encoder.adapters import AdapterSpec, adapter_state, attach
from recllm.text.encoder.batches import plan_batches
from recllm.text.encoder.huggingface import HuggingFaceEncoder

if TYPE_CHECKING:
    from recllm.shop.data.interactions import Ints

ALPHA_PER_RANK = 2.0
"""The change to a weight is alpha / rank * B A."""
_BLOCKS = {"distilbert": "transformer"}
"""Where a model keeps its blocks, in `.layer` of this part; the others call it encoder."""


class Tower:
    """Distinct texts, by number, as unit vectors of the model being trained."""

    def __init__(self, encoder: HuggingFaceEncoder, texts: Sequence[str], args: LoraArguments) -> None:
        from recllm.text.encoder.hardware import MIN_GAIN, product_gain

        self.encoder, self.args = encoder, args
        self.dim, self.device = encoder.dim, encoder.torch_device
        self.tokens = [np.asarray(ids, np.int32) for ids in encoder.tokens.ids(texts, "document")]
        self.lengths = np.array([len(ids) for ids in self.tokens], np.int64)
        if args.precision != "auto":
            self.bf16 = args.precision == "bfloat16"
        else:
            self.bf16 = product_gain() >= MIN_GAIN if self.device == "cpu" else torch.cuda.is_bf16_supported()
        plain = encoder.model.requires_grad_(False).train()
        for module in plain.modules():  # the same function at every call, which two passes need
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.spec = adapter_spec(plain, encoder.weights.name, encoder.base_hash, args)
        depth = int(plain.config.num_hidden_layers)
        split = 0 if self.spec.layers is None else depth - len(self.spec.layers)
        self.model = attach(plain, self.spec, seed=args.seed)
        self._lower = _part(plain, encoder.model_type, 0, split, inputs=True) if split else None
        self._upper = _part(plain, encoder.model_type, split, depth, inputs=not split)
        self._lower_outputs: dict[int, Tensor] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def state(self) -> dict[str, Tensor]:
        return adapter_state(self.model)

    def encode(self, texts: Ints) -> Tensor:
        """Unit rows (len(texts), dim) without a graph."""
        vectors = torch.zeros(len(texts), self.dim, device=self.device)
        with torch.no_grad():
            for rows, batch in self._batches(texts):
                vectors[rows] = batch
        return vectors

    def backward(self, texts: Ints, gradient: Tensor) -> Tensor:
        """Encode once more with a graph, in chunks, and push `gradient`, (len(texts), dim), through each.

        Returns the unit rows. This is the second pass of the cached loss (Gao et al. 2021).
        """
        vectors = torch.zeros(len(texts), self.dim, device=self.device)
        for rows, batch in self._batches(texts):
            batch.backward(gradient[rows])  # type: ignore[no-untyped-call]
            vectors[rows] = batch.detach()
        return vectors

    def with_graph(self, texts: Ints) -> Tensor:
        rows, parts = zip(*self._batches(texts), strict=True)
        order = torch.from_numpy(np.argsort(np.concatenate(rows)))
        return torch.cat(parts)[order.to(self.device)]

    def at_once(self, texts: Ints) -> Tensor:
        """Unit rows with a graph, (len(texts), dim), in one pass of the model whose rows are these texts in order, each
        as often as it is named: what gradients row by row need."""
        with self._autocast():
            hidden, mask = self._inputs([int(t) for t in texts])
            hidden = self._upper(attention_mask=mask, **hidden)[0]
        return self.encoder.pooled(hidden, mask)

    def _batches(self, texts: Ints) -> Iterator[tuple[Ints, Tensor]]:
        for rows in plan_batches(self.lengths[texts], self.args.chunk_tokens):
            with self._autocast():
                hidden, mask = self._inputs([int(t) for t in texts[rows]])
                hidden = self._upper(attention_mask=mask, **hidden)[0]
            yield rows, self.encoder.pooled(hidden, mask)

    def _inputs(self, texts: list[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        ids, mask = self.encoder.padded([self.tokens[t] for t in texts])
        if self._lower is None:
            return {"input_ids": ids}, mask
        if all(t in self._lower_outputs for t in texts):
            outputs = [self._lower_outputs[t] for t in texts]
            stacked = torch.stack(outputs) if mask is None else nn.utils.rnn.pad_sequence(outputs, batch_first=True)
            return {"inputs_embeds": stacked}, mask
        with torch.no_grad():
            return {"inputs_embeds": self._lower(input_ids=ids, attention_mask=mask)[0]}, mask

    def keep(self, texts: Ints) -> None:
        """Compute the lower part of texts, as long as there is room.

        Called once with all texts of a run, so that what is kept does not depend on where a run was resumed: the last
        bits of a text's output depend on the batch it was computed in.
        """
        room = self.args.cache_mib << 20
        if self._lower is None or room <= 0 or not len(texts):
            return
        for rows in plan_batches(self.lengths[texts], self.args.chunk_tokens):
            ids, mask = self.encoder.padded([self.tokens[t] for t in texts[rows]])
            with torch.no_grad(), self._autocast():
                hidden = self._lower(input_ids=ids, attention_mask=mask)[0]
            hidden = hidden.bfloat16() if self.bf16 else hidden
            for row, text in enumerate(texts[rows]):
                if room > 0:
                    self._lower_outputs[int(text)] = hidden[row, : self.lengths[text]].clone()
                    room -= self._lower_outputs[int(text)].nbytes

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16) if self.bf16 else contextlib.nullcontext()


def adapter_spec(model: Any, base: str, base_hash: str, args: LoraArguments | CopywriterArguments) -> AdapterSpec:
    """The adapter that a run with these settings trains on this model, whose weights have this name and hash."""
    depth = int(model.config.num_hidden_layers)
    first = 0 if args.top_layers is None else max(0, depth - args.top_layers)
    return AdapterSpec(
        rank=args.rank,
        alpha=ALPHA_PER_RANK * args.rank,
        model_type=model.config.model_type,
        base=base,
        base_hash=base_hash,
        layers=tuple(range(first, depth)) if first else None,
    )


def _part(model: Any, model_type: str, start: int, stop: int, *, inputs: bool) -> Any:
    """The model with these blocks only, sharing their weights; without `inputs` it takes another part's output."""
    name = _BLOCKS.get(model_type, "encoder")
    part, stack = _shallow(model), _shallow(getattr(model, name))
    stack.layer = nn.ModuleList(stack.layer[start:stop])
    setattr(part, name, stack)
    if not inputs:
        part.embeddings = _PassThrough()
    return part


def _shallow(module: Any) -> Any:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


class _PassThrough(nn.Module):
    """Stands where the embeddings stood and hands on what the lower part made."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, *_: Any, **__: Any) -> Any:
        return inputs_embeds
