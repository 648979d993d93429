"""The loop of a private training: DP-SGD with a user as the unit.

At each step every user is drawn by a chance of their own, brings one example, and so one gradient. Each gradient is
shortened by itself, their sum gets noise, and only that sum moves the weights. Nothing in a user's loss may depend on
another user: no batch statistics, no negatives of others. A step that draws no user is made of noise alone; leaving it
out would show that no user was drawn, and the accounting would be wrong.

The sum is not divided by the number of users, which would have to be kept secret: Adam does not mind the scale.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recllm.base.errors import ModelError
from recllm.learn.training.private.accounting import PrivateMechanism, import_opacus
from recllm.shop.data.interactions import Ints

UserLosses = Callable[[Ints], Tensor]
"""Rows of users, (n,) -> the loss of each, (n,); the model's rows are the users. It is called in training mode, with
the hooks on, and calls the model once: of several passes Opacus would add up the gradients of different rows."""


def secret_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that cannot be repeated: its seed comes from the system's own source of chance, and is not kept."""
    return torch.Generator(device).manual_seed(int.from_bytes(os.urandom(8), "little") & (2**63 - 1))


class PrivateDescent:
    """Steps on a model whose trainable tensors are on their device already: hooks that are set before a move watch
    tensors that are no longer trained (opacus#820)."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        losses: UserLosses,
        n_users: int,
        mechanism: PrivateMechanism,
        *,
        chunk: int = 512,
        generator: torch.Generator | None = None,
        user_generator: torch.Generator | None = None,
    ) -> None:
        """losses: see `UserLosses`. chunk: users whose gradients are in memory at once. generator, user_generator: of
        the noise, on the model's device, and of who is drawn, on the CPU; only a test may give them.

        Raises `ModelError` where the optimiser's tensors are not the model's trainable ones.
        """
        opacus = import_opacus()
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        if not parameters or {id(p) for p in parameters} != {id(p) for p in self.named.values()}:
            raise ModelError("the optimiser has other tensors than the model trains; make it after freezing and moving")
        device = parameters[0].device
        self.model, self.losses, self.n_users, self.chunk = model, losses, n_users, chunk
        self.sampling_rate, self.steps = mechanism.sampling_rate, mechanism.steps
        self.hooks = opacus.grad_sample.GradSampleHooks(model, loss_reduction="sum")
        self.optimiser = opacus.optimizers.DPOptimizer(
            optimiser,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=None,
            loss_reduction="sum",
            generator=generator or secret_generator(device),
        )
        self._users = user_generator or secret_generator()
        self._start = {name: p.detach().clone() for name, p in self.named.items()}
        self._had_gradient: set[str] = set()
        self.n_drawn: list[int] = []
        """Users of each step so far. It must not leave the process: who is drawn is a secret of the mechanism."""

    def run(self, after_step: Callable[[int], None] | None = None) -> None:
        """All steps; `after_step` gets the number of each, from 1. Raises what `step` raises."""
        try:
            for number in range(1, self.steps + 1):
                self.step(self.draw())
                if after_step is not None:
                    after_step(number)
            self._check_learned()
        finally:
            self.close()

    def close(self) -> None:
        """Takes the hooks off the model."""
        self.hooks.remove_hooks()
        for parameter in self.named.values():
            for name in ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)

    def draw(self) -> Ints:
        """Rows of the users of a step: each by a draw of its own, often none."""
        drawn = torch.rand(self.n_users, generator=self._users) < self.sampling_rate
        return np.flatnonzero(drawn.numpy())

    def step(self, users: Ints) -> None:
        """One step on these users.

        Raises `ModelError` where a tensor that is to be trained gets no gradient of each user, or does not move: both
        happen without a word where hooks watch other tensors than are trained.
        """
        self.model.train()
        chunks = [users[at : at + self.chunk] for at in range(0, len(users), self.chunk)]
        for number, block in enumerate(chunks or [users]):
            self.optimiser.zero_grad()
            if len(block):
                self.gradients(block)
            else:
                for parameter in self.named.values():
                    _set_gradients(parameter, torch.zeros((0, *parameter.shape), device=parameter.device))
            self.optimiser.signal_skip_step(number + 1 < max(len(chunks), 1))
            self.optimiser.step()
        if not self.n_drawn:
            for name, parameter in self.named.items():
                if torch.equal(parameter.detach(), self._start[name]):
                    raise ModelError(f"private training does not move {name}: the optimiser does not train the model")
        self.n_drawn.append(len(users))

    def gradients(self, users: Ints) -> None:
        """Sets each trainable tensor's `grad_sample`, (n_users, *shape), the gradient of each of these users' loss."""
        losses = self.losses(users)
        if losses.shape != (len(users),):
            raise ModelError(
                f"{len(users)} users have losses of shape {tuple(losses.shape)}; each has one of their own"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first layer's inputs are data
            losses.sum().backward()  # type: ignore[no-untyped-call]
        for name, parameter in self.named.items():
            gradient: Any = getattr(parameter, "grad_sample", None)
            if gradient is None or isinstance(gradient, list):  # a list: of several passes, whose users would be mixed
                raise ModelError(f"private training got no gradient of {name} for each user: it is not hooked")
            if gradient.shape != (len(users), *parameter.shape):
                raise ModelError(f"{name}: {tuple(gradient.shape)} gradients for {len(users)} users; batches are mixed")
            # of one user alone, so that the other users' shortened gradients stay as they are
            gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
            if name not in self._had_gradient and torch.any(gradient != 0):
                self._had_gradient.add(name)
            _set_gradients(parameter, gradient)

    def _check_learned(self) -> None:
        """A tensor that never had a gradient was moved by noise alone."""
        silent = sorted(self.named.keys() - self._had_gradient)
        if silent and sum(self.n_drawn) > 0 and len(self.n_drawn) > 1:
            raise ModelError(f"private training never had a gradient of {silent[0]}: it was moved by noise alone")


def _set_gradients(parameter: Any, gradients: Tensor) -> None:
    """Where Opacus looks for the gradient of each user."""
    parameter.grad_sample = gradients
