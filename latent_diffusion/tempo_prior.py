"""Text -> tempos that fit it, so that music asked for without a tempo still has a beat.

The transformer keeps time by the beats that it is told of; without a tempo it has to count by itself, which small
ones do not learn. So the pipeline draws the tempo first, then the music: p(tempo | text) p(music | text, tempo).

Symbols
    states    token states of the text encoder
    bins      classes of tempos, ``BINS_PER_OCTAVE`` of equal ratios, over all that music has
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must exist here: diffusers looks it up on loading
from jaxtyping import Bool, Float
from torch import Tensor, nn

from latent_diffusion.conditions import MAX_TEMPO, MIN_TEMPO

BINS_PER_OCTAVE = 6  # neighbours differ by 12 %, about as much as pieces of one style do
OCTAVES = math.log2(MAX_TEMPO / MIN_TEMPO)
NUM_BINS = round(OCTAVES * BINS_PER_OCTAVE)
PENALTY = 1e-3  # of the squared weights; best of 1e-4, 1e-3 and 1e-2 on held-out captions (docs/experiments.md)
MAX_CAPTIONS = 20_000  # more make the fit slower and hardly better
TAIL = 0.05
"""What is left out at both ends of a drawn distribution: every bin has some probability, the slowest one too."""


class TempoPrior(ModelMixin, ConfigMixin):
    """Multinomial logistic regression of the tempo's bin on the direction of the mean token state.

    A class per bin, not a number: a text may suit two tempos and none between, and what is unlike all the training
    texts still gets a tempo that music has.

    Args:
        cross_attention_dim: width of the text encoder's output.
        text_encoder: name of the text encoder.
    """

    @register_to_config
    def __init__(self, cross_attention_dim: int = 384, text_encoder: str | None = None) -> None:
        super().__init__()
        self.proj = nn.Linear(cross_attention_dim, NUM_BINS)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(
        self, states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch bins"]:
        """Log probability of each bin; ``mask`` is True for real tokens. On the device of the weights."""
        weight, direction = self.proj.weight, text_direction(states, mask)
        if weight.device.type != "meta":  # under sequential offloading the hook of the layer knows the device
            direction = direction.to(weight.device)
        return F.log_softmax(self.proj(direction.to(weight.dtype)).float(), dim=1)

    def draw(
        self,
        states: Float[Tensor, "batch tokens dim"],
        mask: Bool[Tensor, "batch tokens"],
        uniform: Float[Tensor, " batch"],
    ) -> list[float]:
        """A tempo for each text, in whole beats per minute: ``uniform`` numbers choose among its middle nine tenths.

        Within a bin all tempos are equally likely, by ratio.
        """
        probability = self(states, mask).exp().double().cpu()
        above = probability.cumsum(1)
        place = (TAIL + (1 - 2 * TAIL) * uniform[:, None].double()) * above[:, -1:]
        index = torch.searchsorted(above, place).clamp(max=NUM_BINS - 1)
        within = 1 - (above.gather(1, index) - place) / probability.gather(1, index)
        octaves = (index + within.clamp(0, 1)) * OCTAVES / NUM_BINS
        return [float(round(tempo)) for tempo in (MIN_TEMPO * 2 ** octaves[:, 0]).tolist()]


def text_direction(
    states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch dim"]:
    """Mean token state, scaled to a root mean square of 1; zero for a text without tokens."""
    total = (states.float() * mask[..., None]).sum(1)  # of the mean, only the direction is needed
    return F.normalize(total, dim=1) * states.shape[2] ** 0.5


def tempo_bin(tempo: float) -> int:
    """Number of the bin that a tempo lies in."""
    return min(int(NUM_BINS * math.log2(tempo / MIN_TEMPO) / OCTAVES), NUM_BINS - 1)


def fit_tempo_prior(
    captions: Iterable[tuple[Float[Tensor, "_ dim"], float]], text_encoder: str | None = None
) -> TempoPrior:
    """The prior of captioned music: token states of each caption, and the tempo of its clip.

    Seconds on a CPU, and no random numbers: the maximum of the penalised likelihood is unique.

    Raises:
        ValueError: there is no caption.
    """
    pairs = list(captions)
    if not pairs:
        raise ValueError("a tempo prior needs captions of clips whose tempo is known, got none")
    pairs = pairs[:: -(-len(pairs) // MAX_CAPTIONS)]
    directions = torch.cat([text_direction(one[None], torch.ones(1, len(one), dtype=torch.bool)) for one, _ in pairs])
    bins = torch.tensor([tempo_bin(tempo) for _, tempo in pairs])
    prior = TempoPrior(directions.shape[1], text_encoder)
    optimizer = torch.optim.LBFGS(prior.proj.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            penalised = F.cross_entropy(prior.proj(directions), bins) + PENALTY * prior.proj.weight.square().sum()
        penalised.backward()
        return penalised.item()

    optimizer.step(loss)
    return prior.eval().requires_grad_(False)
