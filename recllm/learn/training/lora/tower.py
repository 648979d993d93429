"""A text encoder with a new adapter, whose texts become vectors with a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from recllm.shop.data.interactions import Ints
from recllm.text.encoder.adapters import AdapterSpec, adapter_state, attach
from recllm.text.encoder.huggingface import HuggingFaceEncoder


def new_adapter(encoder: HuggingFaceEncoder, spec: AdapterSpec, seed: int) -> Any:
    """The encoder's model wrapped by peft with a new adapter; only this is trainable, and dropout is off."""
    plain = encoder.model.requires_grad_(False)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return attach(plain, spec, seed=seed)


class Tower:
    """Distinct texts, by number, as unit vectors of the model being trained; dropout is off."""

    def __init__(
        self, encoder: HuggingFaceEncoder, texts: Sequence[str], *, rank: int, top_layers: int | None, seed: int
    ) -> None:
        self.encoder, self.device = encoder, encoder.torch_device
        self.tokens = encoder.tokens.ids(texts, "document")
        self.spec = AdapterSpec.of(encoder.model, encoder.weights.name, encoder.base_hash, rank, top_layers)
        self.model = new_adapter(encoder, self.spec, seed).train()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def state(self) -> dict[str, Tensor]:
        return adapter_state(self.model)

    def rows(self, texts: Ints) -> Tensor:
        """Unit rows with a graph, (len(texts), dim), in one pass of the model whose rows are these texts in order."""
        ids, mask = self.encoder.padded([self.tokens[int(text)] for text in texts])
        return self.encoder.pooled(self.encoder.model(input_ids=ids, attention_mask=mask)[0], mask)
