"""Averaged weights of a training: what is validated and exported, whole even where the model is sharded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a shard (every process must call this), or the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class AveragedWeights:
    """Exponential moving average of the weights that are trained.

    Args:
        model: after it was moved to its device and sharded.
        decay: upper limit of the decay; it is warmed up as ``(1 + n) / (10 + n)`` after ``n`` updates.
        twin: an unsharded copy of ``model``, needed only if that is sharded; it receives the average.
    """

    def __init__(self, model: ModelMixin, decay: float, twin: ModelMixin | None = None) -> None:
        self.model, self.twin = model, twin
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.ema = EMAModel(self._trained(), decay=decay, foreach=True)

    @property
    def decay(self) -> float:
        """Decay of the last update."""
        return float(self.ema.cur_decay_value or 0.0)

    def update(self) -> None:
        """Take the weights of one more step into the average."""
        self.ema.step(self._trained())

    @contextmanager
    def in_model(self) -> Iterator[ModelMixin]:
        """A model in evaluation mode that holds the average, without gradients. Every process must enter."""
        with torch.no_grad():
            if self.twin is not None:
                device = next(self.model.parameters()).device
                parameters = dict(self.twin.named_parameters())
                for name, average in zip(self.names, self.ema.shadow_params, strict=True):
                    parameters[name].copy_(whole(average))
                yield self.twin.to(device).eval()
                self.twin.to("cpu")  # make room for training
                return
            self.ema.store(self._trained())
            self.ema.copy_to(self._trained())
            self.model.eval()
            try:
                yield self.model
            finally:
                self.model.train()
                self.ema.restore(self._trained())

    def state_dict(self) -> dict[str, Any]:
        """State with whole tensors, so that a checkpoint does not depend on the sharding."""
        state = self.ema.state_dict()
        return state | {"shadow_params": [whole(average).cpu() for average in self.ema.shadow_params]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state, whatever the sharding."""
        with torch.no_grad():
            for average, stored in zip(self.ema.shadow_params, state["shadow_params"], strict=True):
                stored = stored.to(average.device)
                if isinstance(average, DTensor):
                    stored = distribute_tensor(stored, average.device_mesh, average.placements)
                average.copy_(stored)
        self.ema.load_state_dict({name: value for name, value in state.items() if name != "shadow_params"})

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]
