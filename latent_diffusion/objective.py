"""The training objective of the transformer: the only place of its training that draws random numbers."""

from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from latent_diffusion.conditions import NO_BEAT, NO_KEY, NO_TEMPO, random_context_mask
from latent_diffusion.flow import flow_loss, interpolate, logit_normal, velocity
from latent_diffusion.transformer import LatentDiT


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
        self, batch: dict[str, Tensor], generators: Sequence[torch.Generator], progress: float
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """One loss per item, and its time.

        Args:
            batch: output of ``LatentClips.collate``.
            generators: one per item, on the batch's device: an item's draws do not depend on its batch.
            progress: part of the training that is done; unused, this objective has no schedule.
        """
        mask = batch["mask"]
        x0 = self.model.normalize(batch["latents"]) * mask[:, None]
        draws = torch.stack([torch.rand(14, generator=one, device=x0.device) for one in generators])
        normal = randn_tensor((len(x0), 1), generator=list(generators), device=x0.device)[:, 0]
        t = torch.special.ndtr(normal) if self.uniform_times else logit_normal(normal, self.time_mean, self.time_std)
        noise = self._noise(x0, generators)
        context_mask = random_context_mask(draws[:, 6:], mask.sum(1), mask.shape[1])
        context_mask = context_mask * (draws[:, 0] < self.context_probability)[:, None, None]
        unconditional = draws[:, 1] < self.unconditional_probability
        text, text_mask = self._drop_text(batch, unconditional | (draws[:, 2] < self.text_dropout))
        no_tempo = unconditional | (draws[:, 3] < self.number_dropout)
        no_beats = unconditional | (draws[:, 3] < self.number_dropout + self.beat_dropout)
        no_key = unconditional | (draws[:, 4] < self.number_dropout)
        positions = torch.arange(mask.shape[1], device=x0.device) / self.model.config.latent_rate
        positions = torch.where(draws[:, 5, None] < self.position_dropout, -1.0, positions)
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

    def _noise(self, x0: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Drawn at the longest length, so that an item's noise does not depend on how far its batch is padded."""
        shape = (len(x0), x0.shape[1], self.model.config.max_frames)
        return randn_tensor(shape, generator=list(generators), device=x0.device)[..., : x0.shape[2]]

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
