"""The training objective of the transformer: the only place of its training that draws random numbers."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latent_diffusion.conditions import NO_BEAT, NO_KEY, NO_TEMPO, random_context_mask
from latent_diffusion.flow import flow_loss, interpolate, logit_normal, velocity
from latent_diffusion.transformer import LatentDiT


@runtime_checkable
class Draws(Protocol):
    """Random numbers of a batch, ``(batch, *shape)``; each call gives other ones."""

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """Unit Gaussian."""
        ...


class FlowObjective(nn.Module):
    """Rectified-flow loss on a batch of latents, with every condition dropped at random per item.

    What guidance leaves out is left out together: ``unconditional_probability`` replaces the text by the empty prompt
    and forgets tempo, beats and key. Text, tempo, key and positions are also dropped one by one, so that each can be
    asked for alone; the beats go with the tempo, and sometimes before it. A dropped condition is fed as its null
    embedding, so that every parameter takes part in every step.
    """

    empty_prompt: Tensor

    def __init__(
        self,
        model: LatentDiT,
        empty_prompt: Float[Tensor, "tokens dim"],
        unconditional_probability: float = 0.1,
        text_dropout: float = 0.1,
        number_dropout: float = 0.3,
        context_probability: float = 0.2,
        position_dropout: float = 0.1,
        beat_dropout: float = 0.1,
        time_mean: float = 0.0,
        time_std: float = 1.0,
        uniform_times: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = model._no_split_modules  # what FSDP wraps one by one
        self.register_buffer("empty_prompt", empty_prompt, persistent=False)
        self.unconditional_probability = unconditional_probability
        self.text_dropout = text_dropout
        self.number_dropout = number_dropout
        self.context_probability = context_probability
        self.position_dropout, self.beat_dropout = position_dropout, beat_dropout
        self.time_mean, self.time_std, self.uniform_times = time_mean, time_std, uniform_times

    def forward(
        self, batch: dict[str, Tensor], draws: Draws, progress: float
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """One loss per item, and its time.

        Args:
            batch: output of ``LatentClips.collate``.
            draws: random numbers on the batch's device: an item's do not depend on its batch.
            progress: part of the training that is done; unused, this objective has no schedule.
        """
        mask = batch["mask"]
        x0 = self.model.normalize(batch["latents"]) * mask[:, None]
        chances, level = draws.uniform(14), draws.normal()
        t = torch.special.ndtr(level) if self.uniform_times else logit_normal(level, self.time_mean, self.time_std)
        noise = self._noise(x0, draws)
        context_mask = random_context_mask(chances[:, 6:], mask.sum(1), mask.shape[1])
        context_mask = context_mask * (chances[:, 0] < self.context_probability)[:, None, None]
        unconditional = chances[:, 1] < self.unconditional_probability
        text, text_mask = self._drop_text(batch, unconditional | (chances[:, 2] < self.text_dropout))
        no_tempo = unconditional | (chances[:, 3] < self.number_dropout)
        no_beats = unconditional | (chances[:, 3] < self.number_dropout + self.beat_dropout)
        no_key = unconditional | (chances[:, 4] < self.number_dropout)
        positions = torch.arange(mask.shape[1], device=x0.device) / self.model.config.latent_rate
        positions = torch.where(chances[:, 5, None] < self.position_dropout, -1.0, positions)
        predicted = self.model(
            interpolate(x0, noise, t),
            t,
            text,
            encoder_attention_mask=text_mask,
            duration=batch["duration"],
            tempo=torch.where(no_tempo, NO_TEMPO, batch["tempo"]),
            key=torch.where(no_key, NO_KEY, batch["key"]),
            context_latents=x0 * context_mask,
            context_mask=context_mask,
            positions=positions,
            beats=torch.where(no_beats[:, None], NO_BEAT, batch["beats"]),
            attention_mask=mask,
            return_dict=False,
        )[0]
        return flow_loss(predicted, velocity(x0, noise), mask), t

    def _noise(self, x0: Tensor, draws: Draws) -> Tensor:
        """Drawn at the longest length, so that an item's noise does not depend on how far its batch is padded."""
        return draws.normal(x0.shape[1], self.model.config.max_frames)[..., : x0.shape[2]]

    def _drop_text(self, batch: dict[str, Tensor], is_dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the text of some items by the empty prompt."""
        text, text_mask = batch["text"], batch["text_mask"]
        num_tokens = len(self.empty_prompt)
        missing = num_tokens - text.shape[1]
        if missing > 0:
            text = nn.functional.pad(text, (0, 0, 0, missing))
            text_mask = nn.functional.pad(text_mask, (0, missing))
        empty, empty_mask = torch.zeros_like(text[0]), torch.zeros_like(text_mask[0])
        empty[:num_tokens], empty_mask[:num_tokens] = self.empty_prompt.to(text), True
        text = torch.where(is_dropped[:, None, None], empty, text)
        return text, torch.where(is_dropped[:, None], empty_mask, text_mask)
