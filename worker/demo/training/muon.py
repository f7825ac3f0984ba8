"""Muon: an optimiser for the network's matrices that orthogonalises the momentum.

Keller Jordan, "Muon: an optimiser for hidden layers in neural networks" (2024);
the update is scaled to the size of an Adam step (Moonlight, 2025). Matrices of
the same shape are updated as one stack, which is faster on a CPU than many small
products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEP_SIZE = 0.2  # the root mean square of an update at rate 1, as with Adam


class Muon:
    """The optimiser; each step gets its rate and decay."""

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
        update = orthogonalise(gradient.lerp(momentum, MOMENTUM))
        scale = STEP_SIZE * max(update.shape[-2:]) ** 0.5
        for parameter, change in zip(stack, update, strict=True):
            parameter.mul_(1 - rate * decay).add_(change, alpha=-rate * scale)
            parameter.grad = None

    def state(self) -> list[Tensor]:
        """The momenta, for a checkpoint."""
        return self._momenta

    def restore(self, state: list[Tensor]) -> None:
        """Load the momenta of a checkpoint."""
        for momentum, saved in zip(self._momenta, state, strict=True):
            momentum.copy_(saved)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a matrix has no gradient: run backward before the step")
    return parameter.grad


def orthogonalise(stack: Tensor) -> Tensor:
    """Each matrix of [count, rows, columns] with its singular values near one.

    Newton-Schulz iteration. Tall matrices are transposed, because that is cheaper.
    """
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
