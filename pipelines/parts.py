"""The parts of the pipeline: that they fit, how they are saved and found again, and the state of a call."""

from pathlib import Path
from typing import Any, ClassVar

from diffusers.guiders import BaseGuidance
from diffusers.loaders import CogVideoXLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autoencoder.model import Music2LatentAutoencoder
from latent_diffusion.tempo_prior import TempoPrior
from latent_diffusion.text import text_width
from latent_diffusion.transformer import LatentDiT
from pipelines.loading import LoadsTextEncoderByName
from pipelines.model_card import write_model_card
from pipelines.prompts import PromptCache


# CogVideoXLoraLoaderMixin loads LoRA into any transformer
class Music2LatentParts(LoadsTextEncoderByName, DiffusionPipeline, CogVideoXLoraLoaderMixin):
    """What ``Music2LatentPipeline`` is made of.

    Args:
        autoencoder: codec between audio and latents.
        transformer: velocity network on the codec's latents.
        text_encoder: frozen encoder that the transformer was trained with.
        tokenizer: its tokenizer.
        scheduler: a flow-matching scheduler of diffusers.
        guider: a guider of diffusers, saved with the pipeline; classifier-free guidance if not given.
        tempo_prior: tempos that fit a text, for pieces that are asked for without one; they have none if not given.

    Raises:
        ValueError: the parts do not belong together.
    """

    model_cpu_offload_seq = "text_encoder->tempo_prior->transformer->autoencoder"
    _callback_tensor_inputs = ("latents", "prompt_embeds", "negative_prompt_embeds")
    _optional_components: ClassVar = ["guider", "tempo_prior"]

    def __init__(
        self,
        autoencoder: Music2LatentAutoencoder,
        transformer: LatentDiT,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        scheduler: FlowMatchEulerDiscreteScheduler,
        guider: BaseGuidance | None = None,
        tempo_prior: TempoPrior | None = None,
    ) -> None:
        super().__init__()
        if autoencoder is not None and transformer is not None:
            self._check_codec(autoencoder, transformer)
        if text_encoder is not None and transformer is not None:
            self._check_text_encoder(text_encoder, transformer)
        if tempo_prior is not None and transformer is not None:
            self._check_tempo_prior(tempo_prior, transformer)
        self.register_modules(
            autoencoder=autoencoder,
            transformer=transformer,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            guider=guider,
            tempo_prior=tempo_prior,
        )
        self.prompt_cache = PromptCache()
        self._interrupt = False

    @property
    def vae(self) -> Music2LatentAutoencoder:
        """The autoencoder under the name that other pipelines use."""
        return self.autoencoder

    @property
    def sample_rate(self) -> int:
        """Hz of the generated audio."""
        return self.autoencoder.config.sample_rate

    @property
    def max_audio_length_in_s(self) -> float:
        """Seconds of the longest piece that is generated as a whole; longer ones are made of several windows."""
        longest = self.transformer.config.max_frames * self.autoencoder.samples_per_latent
        return (longest - self.autoencoder.spectrogram.overlap) / self.sample_rate

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the running call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the running call asks for the negative prompt as well."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the scheduler in the running call, over all its windows."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep that the running call works on."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """What the running call passes to the transformer's attention."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Set it to True, from a callback or another thread, to stop the sampling; what there is so far is decoded."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read ``model_index.json``; parts are found by their class, so that moving a module breaks no folder."""
        result = super().load_config(*args, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        ours = {one.__name__: one.__module__ for one in (Music2LatentAutoencoder, LatentDiT, TempoPrior)}
        for name, value in config.items():
            if isinstance(value, list | tuple) and len(value) == 2 and value[1] in ours:
                config[name] = [ours[value[1]], value[1]]
        return result

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save all parts and a model card; the files are readable to everybody, as those of a shared folder."""
        # what was set later: diffusers only notes a change of class
        self.register_modules(guider=self.guider, tempo_prior=self.tempo_prior)
        super().save_pretrained(save_directory, *args, **kwargs)
        write_model_card(self, Path(save_directory))
        for path in Path(save_directory).rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors writes 0600

    @staticmethod
    def _check_codec(autoencoder: Music2LatentAutoencoder, transformer: LatentDiT) -> None:
        trained_on, given = transformer.config.codec_id, autoencoder.config.codec_id
        if trained_on and given and trained_on != given:
            raise ValueError(
                f"the transformer was trained on latents of the codec {trained_on}, but the autoencoder is {given}; "
                "take the autoencoder that encoded its training data"
            )
        if transformer.config.in_channels % autoencoder.config.latent_channels:
            raise ValueError(
                f"the transformer makes {transformer.config.in_channels} latent channels, which is no multiple of the "
                f"autoencoder's {autoencoder.config.latent_channels}"
            )

    @staticmethod
    def _check_text_encoder(text_encoder: PreTrainedModel, transformer: LatentDiT) -> None:
        if text_width(text_encoder) != transformer.config.cross_attention_dim:
            raise ValueError(
                f"the text encoder is {text_width(text_encoder)} wide, the transformer was trained with one of "
                f"{transformer.config.cross_attention_dim}: {transformer.config.text_encoder or 'its name is unknown'}"
            )

    @staticmethod
    def _check_tempo_prior(tempo_prior: TempoPrior, transformer: LatentDiT) -> None:
        for name in ("cross_attention_dim", "text_encoder"):
            fitted, given = tempo_prior.config[name], transformer.config[name]
            if fitted and given and fitted != given:
                raise ValueError(
                    f"the tempo prior was made for another text encoder than the transformer: its {name} is {fitted}, "
                    f"the transformer's {given}; take the one that was trained with the transformer"
                )
