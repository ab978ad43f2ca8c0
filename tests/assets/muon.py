"""Muon: momentum for matrices whose steps are made orthogonal (https://kellerjordan.github.io/posts/muon/).

The same rule as `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, but in float32: torch computes in bfloat16,
which takes a CPU without instructions for it fifty times as long and gives other results on one that has them.
"""

from collections.abc import Iterable

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of a*x + b*x^3 + c*x^5: pulls singular values towards 1 fast


class Muon(torch.optim.Optimizer):
    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, weight_decay: float = 0.05, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step for every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:  # the vision layer that nothing reads
                    continue
                average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(average, group["momentum"]))  # Nesterov's look ahead
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)  # as long as a step of Adam


def orthogonalise(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """About U @ V.T, where the singular value decomposition of `matrix` is U @ S @ V.T."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
