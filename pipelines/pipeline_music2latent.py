"""Text to music: encode the prompt, sample latents with the diffusion transformer, decode them in one step."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autoencoder.model import Music2LatentAutoencoder
from autoencoder.noise import draw_seeds
from latent_diffusion.conditions import key_index, tempo_value
from latent_diffusion.text import count_prompts, encode_text
from latent_diffusion.transformer import LatentDiT
from pipelines.loading import LoadsTextEncoderByName
from pipelines.output import Music2LatentPipelineOutput

OUTPUT_TYPES = ("np", "pt", "latent")
Embeds = Float[Tensor, "prompts tokens dim"]
TokenMask = Bool[Tensor, "prompts tokens"]
NegativeEmbeds = Float[Tensor, "prompts negative_tokens dim"]
NegativeTokenMask = Bool[Tensor, "prompts negative_tokens"]
Conditioning = tuple[
    Float[Tensor, "batch tokens dim"],
    Bool[Tensor, "batch tokens"],
    Float[Tensor, "batch negative_tokens dim"],
    Bool[Tensor, "batch negative_tokens"],
]
"""Prompt embeddings and mask, then the same for the negative prompt; one row per waveform."""


class Music2LatentPipeline(LoadsTextEncoderByName, DiffusionPipeline):
    """Text-to-music pipeline.

    Args:
        autoencoder: codec between audio and latents.
        transformer: velocity network on the codec's latents.
        text_encoder: frozen encoder that the transformer was trained with.
        tokenizer: its tokenizer.
        scheduler: a flow-matching scheduler of diffusers.

    Raises:
        ValueError: the parts do not belong together.
    """

    model_cpu_offload_seq = "text_encoder->transformer->autoencoder"
    _callback_tensor_inputs = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def __init__(
        self,
        autoencoder: Music2LatentAutoencoder,
        transformer: LatentDiT,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self._guider = ClassifierFreeGuidance()  # once: each new one logs that guiders are experimental
        if autoencoder is not None and transformer is not None:
            self._check_codec(autoencoder, transformer)
        if text_encoder is not None and transformer is not None:
            self._check_text_encoder(text_encoder, transformer)
        self.register_modules(
            autoencoder=autoencoder,
            transformer=transformer,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )

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
        """Seconds of the longest piece that the transformer was trained on."""
        longest = self.transformer.config.max_frames * self.autoencoder.samples_per_latent
        return (longest - self.autoencoder.spectrogram.overlap) / self.sample_rate

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the running call."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Network evaluations of the running call, guidance not counted."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep that the running call works on."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Set it to True from a callback to stop the sampling; what there is so far is decoded."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

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
        if text_encoder.config.hidden_size != transformer.config.cross_attention_dim:
            raise ValueError(
                f"the text encoder is {text_encoder.config.hidden_size} wide, the transformer was trained with one of "
                f"{transformer.config.cross_attention_dim}: {transformer.config.text_encoder or 'its name is unknown'}"
            )

    def check_inputs(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        prompt_embeds: Tensor | None,
        prompt_attention_mask: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        negative_prompt_attention_mask: Tensor | None,
        audio_length_in_s: float,
        num_inference_steps: int,
        num_waveforms_per_prompt: int,
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
    ) -> None:
        """Raise an error that says what to pass instead, before anything is computed."""
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("pass either prompt or prompt_embeds, and not both")
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("pass either negative_prompt or negative_prompt_embeds, and not both")
        for name, embeds, mask in (
            ("prompt", prompt_embeds, prompt_attention_mask),
            ("negative_prompt", negative_prompt_embeds, negative_prompt_attention_mask),
        ):
            if (embeds is None) != (mask is None):
                raise ValueError(f"{name}_embeds and {name}_attention_mask belong together: pass both or neither")
        num_prompts = count_prompts("prompt", prompt) if prompt_embeds is None else len(prompt_embeds)
        if negative_prompt is not None and count_prompts("negative_prompt", negative_prompt) not in (1, num_prompts):
            raise ValueError(
                f"negative_prompt must be one text or one for each of the {num_prompts} prompts, "
                f"got {len(negative_prompt)}"
            )
        if negative_prompt_embeds is not None and len(negative_prompt_embeds) != num_prompts:
            raise ValueError(
                f"negative_prompt_embeds must have one row for each of the {num_prompts} prompts, "
                f"got {len(negative_prompt_embeds)}"
            )
        if not 1 / self.sample_rate <= audio_length_in_s <= self.max_audio_length_in_s:
            raise ValueError(
                f"audio_length_in_s must be at least one sample and at most {self.max_audio_length_in_s:.2f} s, "
                f"the longest piece this transformer was trained on; got {audio_length_in_s}"
            )
        counts = {"num_inference_steps": num_inference_steps, "num_waveforms_per_prompt": num_waveforms_per_prompt}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs may hold {self._callback_tensor_inputs}, "
                f"got also {sorted(unknown)}"
            )

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None = None,
        num_waveforms_per_prompt: int = 1,
        prompt_embeds: Embeds | None = None,
        prompt_attention_mask: TokenMask | None = None,
        negative_prompt_embeds: NegativeEmbeds | None = None,
        negative_prompt_attention_mask: NegativeTokenMask | None = None,
    ) -> Conditioning:
        """Token states and masks of the prompts and of what to steer away from, one row per waveform.

        Returns:
            ``prompt_embeds``, ``prompt_attention_mask``, and the same two for the negative prompt.
        """
        if prompt_embeds is None or prompt_attention_mask is None:
            prompt_embeds, prompt_attention_mask = encode_text(self.tokenizer, self.text_encoder, _texts(prompt))
        if negative_prompt_embeds is None or negative_prompt_attention_mask is None:
            # without a wish, the empty prompt: the transformer was trained to do without text on it
            negatives = _texts(negative_prompt)
            negatives = negatives * len(prompt_embeds) if len(negatives) == 1 else negatives
            negative_prompt_embeds, negative_prompt_attention_mask = encode_text(
                self.tokenizer, self.text_encoder, negatives
            )
        return (
            prompt_embeds.repeat_interleave(num_waveforms_per_prompt, dim=0),
            prompt_attention_mask.repeat_interleave(num_waveforms_per_prompt, dim=0),
            negative_prompt_embeds.repeat_interleave(num_waveforms_per_prompt, dim=0),
            negative_prompt_attention_mask.repeat_interleave(num_waveforms_per_prompt, dim=0),
        )

    def prepare_latents(
        self, seeds: Sequence[int], num_frames: int, latents: Float[Tensor, "batch channels frames"] | None
    ) -> Float[Tensor, "batch channels frames"]:
        """Starting noise, float32, from each item's own seed on the CPU: no neighbour and no device matters."""
        shape = (len(seeds), self.transformer.config.in_channels, num_frames)
        if latents is None:
            noise = [torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            latents = torch.stack(noise)
        elif latents.shape != shape:
            raise ValueError(
                f"latents, the starting noise, must be (batch, channels, frames) = {shape}, got {tuple(latents.shape)}"
            )
        return latents.to(self._execution_device, torch.float32)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        audio_length_in_s: float = 10.0,
        num_inference_steps: int = 25,
        guidance_scale: float = 4.0,
        tempo: float | None = None,
        key: str | None = None,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Float[Tensor, "batch channels frames"] | None = None,
        prompt_embeds: Embeds | None = None,
        prompt_attention_mask: TokenMask | None = None,
        negative_prompt_embeds: NegativeEmbeds | None = None,
        negative_prompt_attention_mask: NegativeTokenMask | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Music2LatentPipelineOutput | tuple[np.ndarray | Tensor]:
        """Generate music from text.

        Args:
            prompt: a description, or a list of them for a batch.
            negative_prompt: what to steer away from; the empty prompt if not given. Unused at ``guidance_scale`` 1.
            audio_length_in_s: seconds of each piece, at most ``max_audio_length_in_s``. The audio has exactly
                ``round(audio_length_in_s * sample_rate)`` samples.
            num_inference_steps: steps of the scheduler; the time taken is proportional to it.
            guidance_scale: weight of the prompt, tempo and key. 1 turns guidance off and halves the cost.
            tempo: beats per minute, 20 to 400; free if not given.
            key: such as ``"F# minor"``; free if not given.
            num_waveforms_per_prompt: pieces per prompt; they follow each other in the output.
            generator: makes the result repeatable; a list gives each piece its own. A piece depends on its seed only.
            latents: starting noise (batch, latent_channels, latent_frames) instead of a draw.
            prompt_embeds: from ``encode_prompt``, with ``prompt_attention_mask``, instead of ``prompt``.
            prompt_attention_mask: True for real tokens.
            negative_prompt_embeds: the same for the negative prompt.
            negative_prompt_attention_mask: the same for the negative prompt.
            output_type: ``"np"`` array, ``"pt"`` tensor, or ``"latent"``: latents that ``autoencoder.decode`` takes.
            return_dict: False returns ``(audio,)``.
            callback_on_step_end: called after every step as ``callback(pipeline, step, timestep, tensors)``; it may
                return changed tensors, and may set ``pipeline.interrupt``.
            callback_on_step_end_tensor_inputs: which tensors it gets.

        Returns:
            Output whose ``audio`` is (batch, channels, samples), float32 in [-1, 1], at ``sample_rate``.

        Raises:
            TypeError: a prompt is not text.
            ValueError: an argument is out of range, or arguments contradict each other. Nothing has been computed.

        Example:
            >>> pipe = Music2LatentPipeline.from_pretrained("path/to/pipeline")
            >>> pipe("lofi piano beat", audio_length_in_s=8).save("beat.wav")
        """
        self.check_inputs(
            prompt,
            negative_prompt,
            prompt_embeds,
            prompt_attention_mask,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
            audio_length_in_s,
            num_inference_steps,
            num_waveforms_per_prompt,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        musical = {"duration": audio_length_in_s, "tempo": tempo_value(tempo), "key": key_index(key)}
        self._guidance_scale, self._interrupt, self._current_timestep = guidance_scale, False, None
        embeds = self.encode_prompt(
            prompt,
            negative_prompt,
            num_waveforms_per_prompt,
            prompt_embeds,
            prompt_attention_mask,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
        )
        num_samples = round(audio_length_in_s * self.sample_rate)
        seeds = draw_seeds(generator, len(embeds[0]))
        latents = self.prepare_latents(seeds, self.autoencoder.num_latent_frames(num_samples), latents)
        numbers = {
            name: torch.full((len(seeds),), value, device=self._execution_device) for name, value in musical.items()
        }

        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        latents = self._sample(latents, embeds, numbers, num_inference_steps, callback)
        audio = self._decode(latents, seeds, num_samples, output_type)
        self.maybe_free_model_hooks()
        return Music2LatentPipelineOutput(audio=audio, sample_rate=self.sample_rate) if return_dict else (audio,)

    def _sample(
        self,
        latents: Float[Tensor, "batch channels frames"],
        embeds: Conditioning,
        numbers: dict[str, Tensor],
        num_inference_steps: int,
        callback: tuple[Callable[..., dict[str, Any]] | None, Sequence[str]],
    ) -> Float[Tensor, "batch channels frames"]:
        """Follow the velocity from noise to data, guided away from the negative prompt."""
        device, (on_step_end, callback_names) = latents.device, callback
        prompt_embeds, prompt_mask, negative_embeds, negative_mask = (tensor.to(device) for tensor in embeds)
        state = {"latents": latents, "prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_embeds}
        guider = self._guider
        guider.guidance_scale = self._guidance_scale
        timesteps = self._set_timesteps(num_inference_steps, device)
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self._interrupt:
                    break
                self._current_timestep = timestep
                guider.set_state(step, len(timesteps), timestep)
                asked = {"encoder_hidden_states": state["prompt_embeds"], "encoder_attention_mask": prompt_mask}
                velocity = self._velocity("cond", state["latents"], timestep, asked | numbers)
                negative = None
                if guider.num_conditions > 1:
                    # tempo and key are left out, as the training leaves them out together with the text
                    asked = {"encoder_hidden_states": state["negative_prompt_embeds"]}
                    asked |= {"encoder_attention_mask": negative_mask, "duration": numbers["duration"]}
                    negative = self._velocity("uncond", state["latents"], timestep, asked)
                velocity = guider.forward(velocity, negative).pred
                state["latents"] = self.scheduler.step(velocity, timestep, state["latents"], return_dict=False)[0]
                if on_step_end is not None:
                    shown = {name: state[name] for name in callback_names}
                    state |= on_step_end(self, step, timestep, shown) or {}
                progress_bar.update()
        self._current_timestep = None
        return state["latents"]

    def _set_timesteps(self, num_inference_steps: int, device: torch.device) -> Tensor:
        """Evenly spaced times from 1 (noise) to 0; schedulers that take no times choose their own."""
        if "sigmas" in inspect.signature(self.scheduler.set_timesteps).parameters:
            sigmas = np.linspace(1, 1 / num_inference_steps, num_inference_steps)
            self.scheduler.set_timesteps(sigmas=sigmas, device=device)  # an array: UniPC cannot use a list
        else:
            self.scheduler.set_timesteps(num_inference_steps, device=device)
        self._num_timesteps = len(self.scheduler.timesteps)
        return self.scheduler.timesteps

    def _velocity(self, cache_name: str, latents: Tensor, timestep: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        dtype = self.transformer.dtype
        conditions["encoder_hidden_states"] = conditions["encoder_hidden_states"].to(dtype)
        t = (timestep / self.scheduler.config.num_train_timesteps).expand(len(latents)).to(latents.device)
        with self.transformer.cache_context(cache_name):
            return self.transformer(latents.to(dtype), t, return_dict=False, **conditions)[0].float()

    def _decode(
        self, latents: Tensor, seeds: Sequence[int], num_samples: int, output_type: str
    ) -> np.ndarray | Tensor:
        latents = self.transformer.denormalize(latents)
        if output_type == "latent":
            return latents
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        audio = self.autoencoder.decode(latents, num_samples=num_samples, generator=generators)
        return audio.cpu().numpy() if output_type == "np" else audio


def _texts(prompt: str | Sequence[str] | None) -> list[str]:
    return [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)
