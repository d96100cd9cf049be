"""Token states of prompts, each encoded once and alone, so that no neighbour in a batch changes it."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latent_diffusion.text import encode_text

CAPACITY = 64  # prompts; with 128 tokens of a 4096-wide encoder they take 134 MB of main memory


class PromptCache:
    """The token states of the last prompts, in main memory.

    They are forgotten when another text encoder or tokenizer, or the same in another precision, is used. Weights that
    are changed in place are not noticed: call ``clear`` then.
    """

    def __init__(self) -> None:
        self._states: OrderedDict[str, Tensor] = OrderedDict()
        self._made_by: tuple[object, ...] = ()

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "prompts tokens dim"], Bool[Tensor, "prompts tokens"]]:
        """Token states and the mask of real tokens, padded to the longest prompt, on the CPU."""
        made_by = (tokenizer, encoder, encoder.dtype)
        if len(self._made_by) != 3 or any(a is not b for a, b in zip(made_by, self._made_by, strict=True)):
            self._states.clear()
            self._made_by = made_by
        states = [self._state(tokenizer, encoder, prompt) for prompt in prompts]
        lengths = torch.tensor([len(state) for state in states])
        padded = pad_sequence(states, batch_first=True)
        return padded, torch.arange(padded.shape[1]) < lengths[:, None]

    def _state(self, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, prompt: str) -> Tensor:
        if prompt not in self._states:
            states, mask = encode_text(tokenizer, encoder, [prompt])
            self._states[prompt] = states[0, mask[0]].cpu()
            while len(self._states) > CAPACITY:
                self._states.popitem(last=False)
        self._states.move_to_end(prompt)
        return self._states[prompt]
