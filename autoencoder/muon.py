"""Muon for matrices and AdamW for everything else, as one optimizer.

Sources
    Muon   Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
    RMS    learning rates that suit AdamW as well: Liu et al. 2025, https://arxiv.org/abs/2502.16982
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Orthogonalised momentum for the matrices of a network; embeddings, gains, biases and ends go through AdamW.

    A convolution is the matrix from all values that it sees to its channels. Muon's updates are scaled to AdamW's
    typical size (RMS), so that both take the same learning rate.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        flat = [_as_matrix(one) for one in matrices]
        self._muon = torch.optim.Muon(flat, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=0.0)
        muon_group = {**self._muon.param_groups[0], "params": list(matrices)}
        super().__init__([muon_group, *self._adamw.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of both kinds."""
        muon_group, adamw_group = self.param_groups  # loading a state and sharding replace groups and states
        flat = {one: _as_matrix(one) for one in muon_group["params"] if one.grad is not None}
        self._muon.param_groups = [{**muon_group, "params": list(flat.values())}]
        self._muon.state = defaultdict(dict)
        for parameter, matrix in flat.items():
            if parameter in self.state:
                self._muon.state[matrix]["momentum_buffer"] = self.state[parameter]["momentum_buffer"].flatten(1)
        self._muon.step()
        for parameter, matrix in flat.items():
            if matrix is not parameter:
                parameter.copy_(matrix.reshape(parameter.shape))
            momentum = self._muon.state[matrix]["momentum_buffer"].reshape(parameter.shape)
            self.state[parameter]["momentum_buffer"] = momentum
        self._adamw.param_groups, self._adamw.state = [adamw_group], self.state
        self._adamw.step()


def _as_matrix(parameter: nn.Parameter) -> nn.Parameter:
    """Copy of a weight, with its gradient, as (outputs, everything else); the parameter itself if it is a matrix."""
    if parameter.ndim == 2:
        return parameter
    matrix = nn.Parameter(parameter.detach().flatten(1).clone())
    matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
    return matrix
