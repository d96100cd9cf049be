"""Muon for matrices and AdamW for everything else, as one optimizer.

Sources
    Muon   Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
    RMS    learning rates that suit AdamW as well: Liu et al. 2025, https://arxiv.org/abs/2502.16982
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Orthogonalised momentum for the matrices of a network; embeddings, gains, biases and ends go through AdamW.

    Muon's updates are scaled to AdamW's typical size (RMS), so that both take the same learning rate.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self._parts = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=0.0),
        ]
        super().__init__([group for part in self._parts for group in part.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of both kinds."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state  # loading a state and sharding replace both
            part.step()
