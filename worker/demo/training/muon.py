"""Muon: momentum, made orthogonal, for the matrices of the network.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024);
the update is scaled to the size of an Adam step (Moonlight, 2025). Matrices of
one shape are stepped as one stack, which matters on a CPU: the arithmetic is
many small products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEP_SIZE = 0.2  # root mean square of an update at rate 1, as Adam's


class Muon:
    """The optimiser; `rate` and `decay` come with every step."""

    def __init__(self, matrices: Iterable[nn.Parameter]) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            by_shape[tuple(matrix.shape)].append(matrix)
        self._stacks = list(by_shape.values())
        self._momenta = [torch.zeros(len(s), *s[0].shape) for s in self._stacks]

    def step(self, rate: float, decay: float) -> None:
        """Update every matrix from its gradient and drop the gradient."""
        with torch.no_grad():
            for stack, momentum in zip(self._stacks, self._momenta, strict=True):
                self._step(stack, momentum, rate, decay)

    def _step(self, stack: list[nn.Parameter], momentum: Tensor, rate: float, decay: float) -> None:
        gradient = torch.stack([_gradient(p) for p in stack])
        momentum.lerp_(gradient, 1 - MOMENTUM)
        update = orthogonal(gradient.lerp(momentum, MOMENTUM))
        scale = STEP_SIZE * max(update.shape[-2:]) ** 0.5
        for parameter, change in zip(stack, update, strict=True):
            parameter.mul_(1 - rate * decay).add_(change, alpha=-rate * scale)
            parameter.grad = None

    def state(self) -> list[Tensor]:
        """The momenta, for a checkpoint."""
        return self._momenta

    def restore(self, state: list[Tensor]) -> None:
        """Take the momenta of a checkpoint."""
        for momentum, saved in zip(self._momenta, state, strict=True):
            momentum.copy_(saved)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a matrix has no gradient: run backward before the step")
    return parameter.grad


def orthogonal(stack: Tensor) -> Tensor:
    """Each matrix of [count, rows, columns] with its singular values near one.

    Newton-Schulz iteration; the wide side is kept on the right, where it is cheaper.
    """
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
