"""Text to music: encode the prompt, sample latents with the diffusion transformer, decode them in one step."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from jaxtyping import Bool, Float
from torch import Tensor

from autoencoder.chunking import LOW_LATENCY, Windows
from autoencoder.model import Music2LatentAutoencoder
from autoencoder.noise import draw_seeds
from latent_diffusion.conditions import NO_KEY, NO_TEMPO, key_index, tempo_value
from latent_diffusion.tempo_prior import TempoPrior
from latent_diffusion.transformer import LatentDiT
from pipelines._registration import register
from pipelines.checks import Arguments, check_editing, check_prompts, check_settings
from pipelines.decoding import decode, stream
from pipelines.editing import Plan, plan_piece
from pipelines.guidance import guider_of_call
from pipelines.numbers import (
    arguments_of_call,
    check_first_beats,
    first_beats_of_call,
    keys_of_call,
    tempos_of_call,
)
from pipelines.output import Music2LatentPipelineOutput, describe, fresh_generators, seeds_of_record
from pipelines.parts import Music2LatentParts
from pipelines.request import Request
from pipelines.sampling import sample
from pipelines.windows import known_frames

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


class Music2LatentPipeline(Music2LatentParts):
    """Text-to-music pipeline, which also edits given audio; ``Music2LatentParts`` says what it is made of."""

    def check_inputs(self, arguments: Arguments) -> Plan:
        """Raise an error that says what to pass instead, before anything is computed; lay out the piece."""
        check_prompts(arguments)
        check_settings(arguments, self.sample_rate, self._callback_tensor_inputs)
        check_editing(arguments, self.transformer.config.in_channels // self.autoencoder.config.latent_channels)
        check_first_beats(arguments)
        plan = plan_piece(arguments, self.sample_rate)
        shape = (
            arguments.num_prompts * arguments.num_waveforms_per_prompt,
            self.transformer.config.in_channels,
            self._num_frames(plan.num_samples, arguments.loop),
        )
        if arguments.latents is not None and arguments.latents.shape != shape:
            raise ValueError(
                f"latents, the starting noise, must be (batch, channels, frames) = {shape}, "
                f"got {tuple(arguments.latents.shape)}"
            )
        return plan

    def _num_frames(self, num_samples: int, loop: bool) -> int:
        """Latent frames of a piece; a loop goes round without the frames that a piece needs beyond its end."""
        if loop:
            return -(-num_samples // self.autoencoder.samples_per_latent)
        return self.autoencoder.num_latent_frames(num_samples)

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

        Prompts that were encoded lately are not encoded again; ``prompt_cache.clear()`` forgets them.

        Returns:
            ``prompt_embeds``, ``prompt_attention_mask``, and the same two for the negative prompt.
        """
        if prompt_embeds is None or prompt_attention_mask is None:
            prompt_embeds, prompt_attention_mask = self._encode_texts(_texts(prompt))
        if negative_prompt_embeds is None or negative_prompt_attention_mask is None:
            # without a wish, the empty prompt: the transformer was trained to do without text on it
            negatives = _texts(negative_prompt)
            negatives = negatives * len(prompt_embeds) if len(negatives) == 1 else negatives
            negative_prompt_embeds, negative_prompt_attention_mask = self._encode_texts(negatives)
        prompt_embeds = prompt_embeds.repeat_interleave(num_waveforms_per_prompt, dim=0)
        prompt_attention_mask = prompt_attention_mask.repeat_interleave(num_waveforms_per_prompt, dim=0)
        negative_prompt_embeds = negative_prompt_embeds.repeat_interleave(num_waveforms_per_prompt, dim=0)
        negative_prompt_attention_mask = negative_prompt_attention_mask.repeat_interleave(
            num_waveforms_per_prompt, dim=0
        )
        return prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask

    def _encode_texts(self, prompts: list[str]) -> tuple[Embeds, TokenMask]:
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                "this pipeline has no text encoder or no tokenizer: pass prompt_embeds and negative_prompt_embeds, "
                "with their masks, or load it with both"
            )
        embeds, mask = self.prompt_cache.encode(self.tokenizer, self.text_encoder, prompts)
        device = self._execution_device
        return embeds.to(device), mask.to(device)

    def prepare_latents(
        self, seeds: Sequence[int], num_frames: int, latents: Float[Tensor, "batch channels frames"] | None
    ) -> Float[Tensor, "batch channels frames"]:
        """Starting noise, float32, from each item's own seed on the CPU: no neighbour and no device matters."""
        if latents is None:
            shape = (self.transformer.config.in_channels, num_frames)
            latents = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in seeds])
        return latents.to(self._execution_device, torch.float32)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        audio_length_in_s: float | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        tempo: float | Sequence[float | None] | None = None,
        key: str | Sequence[str | None] | None = None,
        first_beat_in_s: float | Sequence[float | None] | None = None,
        audio: Tensor | np.ndarray | Music2LatentPipelineOutput | None = None,
        audio_start_in_s: float = 0.0,
        regions: Sequence[tuple[float, float]] | None = None,
        mask: Tensor | np.ndarray | None = None,
        strength: float = 1.0,
        loop: bool = False,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Float[Tensor, "batch channels frames"] | None = None,
        prompt_embeds: Embeds | None = None,
        prompt_attention_mask: TokenMask | None = None,
        negative_prompt_embeds: NegativeEmbeds | None = None,
        negative_prompt_attention_mask: NegativeTokenMask | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Music2LatentPipelineOutput | tuple[np.ndarray | Tensor]:
        """Generate music from text, or edit given audio.

        Args:
            prompt: a description, or a list of them for a batch.
            negative_prompt: what to steer away from; the empty prompt if not given. Unused at ``guidance_scale`` 1.
            audio_length_in_s: seconds of each piece; exactly ``round(audio_length_in_s * sample_rate)`` samples. 10 if
                not given, or the end of the given audio. Beyond ``max_audio_length_in_s`` the piece is made of windows
                that each see what was generated before.
            num_inference_steps: steps of the scheduler; the time taken is proportional to it.
            guidance_scale: weight of the prompt, tempo and key; 1 or less: none, at half the cost. The guider's
                own, or 7, if not given.
            guidance_rescale: 0 to 1, how far the guided prediction gets the spread of the unguided one back.
            guidance_interval: first and last share of the steps that are guided, such as ``(0.1, 0.9)``.
            tempo: beats per minute, 20 to 400, or 0 for music that keeps none. A list gives one per prompt. If not
                given, what the prompt states ("82 bpm"), or else, without given audio, one that suits the prompt,
                drawn from the tempo prior by the seed of the piece. The transformer is told where each frame stands
                in the beat, but for a loop of a broken number of beats.
            key: such as ``"F# minor"``, or "none" for music in no key. A list gives one per prompt. If not given, what
                the prompt states, or else free.
            first_beat_in_s: seconds from the start of the given audio to a bar line, with its tempo: what is generated
                then keeps to its beats. Not known if not given. Without given audio, where the first bar of the piece
                begins, 0.03 if not given. A list gives one per prompt.
            audio: music to edit, (channels, samples) or one for each prompt (batch, channels, samples), in [-1, 1] at
                ``sample_rate``. What lies outside of it is generated; it is kept sample by sample where nothing else
                is said, but for a cross-fade of 20 ms beside each generated region. The output of a call brings its
                tempo and first beat along, so that its beats go on, whatever tempo the prompt states.
            audio_start_in_s: where the audio stands in the piece: 0 continues it, more leads up to it.
            regions: seconds ``[(start, end), ...]`` of the piece to generate anew.
            mask: the same for each sample, True where generated anew; instead of ``regions``.
            strength: how much of the regions, or of everything without regions, is changed: 1 starts from noise, 0.5
                from half noised audio, with half of the steps.
            loop: the end joins the start. Up to ``max_audio_length_in_s`` the transformer works on a circle, beyond it
                the last window sees the start again.
            num_waveforms_per_prompt: pieces per prompt; they follow each other in the output.
            generator: makes the result repeatable; a list gives each piece its own. A piece depends on its seed only.
                If not given, each piece gets a seed that ``output.metadata`` tells.
            latents: starting noise (batch, latent_channels, latent_frames) instead of a draw.
            prompt_embeds: from ``encode_prompt``, with ``prompt_attention_mask``, instead of ``prompt``. They state no
                tempo and no key: pass those as numbers.
            prompt_attention_mask: True for real tokens.
            negative_prompt_embeds: the same for the negative prompt.
            negative_prompt_attention_mask: the same for the negative prompt.
            attention_kwargs: ``{"scale": float}`` weighs the loaded LoRA.
            output_type: ``"np"`` array, ``"pt"`` tensor, or ``"latent"``: latents that ``autoencoder.decode`` takes.
            return_dict: False returns ``(audio,)``.
            callback_on_step_end: called after every step as ``callback(pipeline, step, timestep, tensors)``; it may
                return changed tensors, and may set ``pipeline.interrupt``. Steps are counted over all windows.
            callback_on_step_end_tensor_inputs: which tensors it gets; ``"latents"`` are those of the window.

        Returns:
            Output whose ``audio`` is (batch, channels, samples), float32 in [-1, 1], at ``sample_rate``.

        Raises:
            TypeError: a prompt is not text, or another argument of a wrong type.
            ValueError: an argument is out of range, or arguments contradict each other. Nothing has been computed.

        Example:
            >>> pipe = Music2LatentPipeline.from_pretrained("path/to/pipeline")
            >>> pipe("lofi piano beat", audio_length_in_s=8).save("beat.wav")
        """
        # the signature is the one list of arguments, for this and for stream
        request = self._prepare(**{name: value for name, value in locals().items() if name != "self"})
        for _ in sample(self, request):
            pass
        result = self.transformer.denormalize(request.x0) if output_type == "latent" else decode(self, request)
        self.maybe_free_model_hooks()
        if output_type == "np":
            result = result.cpu().numpy()
        if not return_dict:
            return (result,)
        return Music2LatentPipelineOutput(audio=result, sample_rate=self.sample_rate, metadata=request.metadata)

    def stream(
        self, prompt: str | Sequence[str] | None = None, *, windows: Windows = LOW_LATENCY, **arguments: Any
    ) -> Iterator[Float[Tensor, "batch channels samples"] | np.ndarray]:
        """Generate as a call does, but give the audio in pieces, each as soon as it is decoded.

        A piece of several windows is heard while its later windows are not yet generated. A loop comes at once, since
        its first sample depends on its last.

        Args:
            prompt: as for a call.
            windows: how the codec divides the latents. The default gives its first audio early; with ``Windows()``
                the pieces together are exactly what a call gives.
            **arguments: as for a call; ``output_type`` is "np" or "pt".

        Returns:
            Iterator over (batch, channels, samples) of any lengths, which follow each other.

        Raises:
            TypeError: an argument is of a wrong type, or does not exist.
            ValueError: as for a call; raised at once.
        """
        bound = inspect.signature(self.__call__).bind(prompt, **arguments)
        bound.apply_defaults()
        output_type = bound.arguments["output_type"]
        if output_type == "latent":
            raise ValueError("stream gives audio, output_type 'np' or 'pt'; call the pipeline itself for latents")
        return self._stream(self._prepare(**bound.arguments), output_type, windows)

    def _stream(self, request: Request, output_type: str, windows: Windows) -> Iterator[Any]:
        pieces = stream(self, request, windows)
        try:
            while True:
                with torch.no_grad():  # for each piece, so that it does not hold for the caller between two of them
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece.cpu().numpy() if output_type == "np" else piece
        finally:
            self.maybe_free_model_hooks()

    @torch.no_grad()
    def _prepare(self, *, attention_kwargs: dict[str, Any] | None, **given: Any) -> Request:
        """Check everything, encode prompts and audio, draw the noise."""
        if isinstance(given["callback_on_step_end"], PipelineCallback | MultiPipelineCallbacks):
            given["callback_on_step_end_tensor_inputs"] = given["callback_on_step_end"].tensor_inputs
        arguments = arguments_of_call(given, self.sample_rate)
        plan = self.check_inputs(arguments)
        guider = guider_of_call(
            self.guider, arguments.guidance_scale, arguments.guidance_rescale, arguments.guidance_interval
        )
        self._guidance_scale, self._attention_kwargs = guider.guidance_scale, attention_kwargs
        self._interrupt, self._current_timestep = False, None
        num_waveforms = arguments.num_prompts * arguments.num_waveforms_per_prompt
        generator = fresh_generators(num_waveforms) if arguments.generator is None else arguments.generator
        recorded = seeds_of_record(generator, num_waveforms)
        seeds = draw_seeds(generator, num_waveforms)
        conditions = self._conditions(arguments, seeds, plan.num_samples / self.sample_rate)
        noise = self.prepare_latents(seeds, self._num_frames(plan.num_samples, arguments.loop), arguments.latents)
        codec, num_frames = self.autoencoder, noise.shape[-1]
        first_beats = first_beats_of_call(arguments)
        x0, audio = torch.zeros_like(noise), plan.given
        if audio is not None:
            audio = audio.repeat_interleave(num_waveforms // len(audio), dim=0).to(noise.device)
            x0 = self.transformer.normalize(codec.encode(audio).float())[..., :num_frames].contiguous()
        is_whole = num_frames <= self.transformer.config.max_frames
        request = Request(
            seeds=seeds,
            num_samples=plan.num_samples,
            noise=noise,
            x0=x0,
            is_known=known_frames(
                plan.is_kept, num_frames, codec.samples_per_latent, codec.spectrogram.overlap, arguments.loop
            ),
            conditions=conditions,
            first_beats=first_beats,
            guider=guider,
            sample_rate=self.sample_rate,
            num_inference_steps=arguments.num_inference_steps,
            strength=arguments.strength,
            loop_frames=plan.num_samples / codec.samples_per_latent if arguments.loop and is_whole else None,
            is_loop=arguments.loop,
            given=audio,
            is_kept=plan.is_kept,
            on_step_end=(arguments.callback_on_step_end, arguments.callback_on_step_end_tensor_inputs),
            metadata=[],
        )
        request.metadata = describe(self, arguments, request, recorded)
        return request

    def _conditions(
        self, arguments: Arguments, seeds: Sequence[int], seconds: float
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """What the transformer is told with the prompt and without it, one row per waveform."""
        device, repeats = self._execution_device, arguments.num_waveforms_per_prompt
        embeds = self.encode_prompt(
            arguments.prompt,
            arguments.negative_prompt,
            repeats,
            arguments.prompt_embeds,
            arguments.prompt_attention_mask,
            arguments.negative_prompt_embeds,
            arguments.negative_prompt_attention_mask,
        )
        prompt_embeds, prompt_mask, negative_embeds, negative_mask = (tensor.to(device) for tensor in embeds)
        tempos = tempos_of_call(arguments, self.tempo_prior, prompt_embeds, prompt_mask, seeds, seconds)
        tempo = torch.tensor([tempo_value(one) for one in tempos], device=device)
        key = torch.tensor([key_index(one) for one in keys_of_call(arguments)], device=device)
        return {
            "encoder_hidden_states": (prompt_embeds, negative_embeds),
            "encoder_attention_mask": (prompt_mask, negative_mask),
            # tempo and key are left out, as the training leaves them out together with the text
            "tempo": (tempo, torch.full_like(tempo, NO_TEMPO)),
            "key": (key, torch.full_like(key, NO_KEY)),
        }


def _texts(prompt: str | Sequence[str] | None) -> list[str]:
    return [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)


register(Music2LatentAutoencoder, LatentDiT, TempoPrior, Music2LatentPipeline)
