"""Windows and streams: any length in bounded memory, joined without a trace of the calls."""

import itertools
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

from autoencoder import LOW_LATENCY, Music2LatentAutoencoder, Windows
from autoencoder.chunking import Divider, Joiner
from autoencoder.coding import check_tensor
from autoencoder.spectrogram import ComplexSpectrogram, OverlapAdd
from tests.conftest import tone

SMALL = Windows(size=10, context=3, fade=2)


def join(joiner: Joiner, outputs: dict[int, torch.Tensor]) -> torch.Tensor:
    return torch.cat([*(joiner.push(output, start) for start, output in outputs.items()), joiner.finish()], dim=-1)


def places(windows: Windows, total: int) -> list[tuple[int, int]]:
    return list(Divider(windows).rest(total))


@pytest.mark.parametrize("total", [1, 9, 10, 11, 14, 15, 57, 100])
def test_windows_cover_the_piece_and_all_but_the_last_are_equally_long(total: int) -> None:
    spans = places(SMALL, total)
    assert spans[0][0] == 0
    assert spans[-1][1] == total
    assert {stop - start for start, stop in spans[:-1]} <= {SMALL.size}
    assert min(total, SMALL.size // 4) <= spans[-1][1] - spans[-1][0] <= SMALL.size
    for (_, before), (after, _) in itertools.pairwise(spans):
        assert before - after >= 2 * SMALL.context


@pytest.mark.parametrize("total", [10, 11, 57])
def test_a_stream_is_divided_like_the_whole_piece(total: int) -> None:
    divider, spans = Divider(SMALL), []
    for available in range(1, total + 1):
        spans += list(divider.complete(available))
        assert all(stop <= available for _, stop in spans)
    assert spans + list(divider.rest(total)) == places(SMALL, total)


@pytest.mark.parametrize("total", [5, 10, 11, 57])
@pytest.mark.parametrize("rate", [1, 4])
def test_windows_that_agree_are_joined_without_a_trace(total: int, rate: int) -> None:
    piece = torch.randn(2, 3, total * rate)
    joiner = Joiner(SMALL, rate)
    joined = [
        joiner.push(piece[..., start * rate : stop * rate], start * rate) for start, stop in places(SMALL, total)
    ]
    torch.testing.assert_close(torch.cat([*joined, joiner.finish()], dim=-1), piece)


def test_windows_that_differ_are_cross_faded_in_the_middle_of_what_they_share() -> None:
    joiner = Joiner(SMALL, rate=1)
    joined = torch.cat(
        [joiner.push(torch.zeros(1, 10), 0), joiner.push(torch.ones(1, 10), 4), joiner.finish()], dim=-1
    )
    assert joined[0].tolist() == [0.0] * 6 + [0.25, 0.75] + [1.0] * 6


def test_the_ends_of_windows_do_not_count() -> None:
    outputs = {start: torch.arange(float(start), start + 10)[None] for start in (0, 4, 8)}
    for start, output in outputs.items():
        if start > 0:
            output[:, : SMALL.context - 1] = torch.nan
        if start < 8:
            output[:, -SMALL.context + 1 :] = torch.nan
    torch.testing.assert_close(join(Joiner(SMALL, rate=1), outputs)[0], torch.arange(18.0))


def test_windows_that_cannot_be_joined_are_refused() -> None:
    for arguments in ({"context": 64}, {"fade": 3}, {"context": 0}):
        with pytest.raises(
            ValueError, match=r"even fade of at most 2 \* context frames, and 2 \* context below size, got"
        ):
            Windows(**arguments)


def test_frames_in_pieces_are_inverted_like_all_frames() -> None:
    spectrogram = ComplexSpectrogram(512, 128)
    frames = spectrogram(tone(300.0, 0.1))
    overlap_add = OverlapAdd(spectrogram)
    pieces = torch.cat(
        [overlap_add.push(piece) for piece in frames.split([1, 1, 3, 2, frames.shape[-1] - 7], dim=-1)], dim=-1
    )
    torch.testing.assert_close(pieces, spectrogram.inverse(frames)[..., 384:-384])


@pytest.mark.parametrize("num_samples", [1, 5000, 70_000, 150_000])
def test_an_excerpt_of_long_latents_is_the_start_of_the_whole(
    codec: Music2LatentAutoencoder, num_samples: int
) -> None:
    latents = torch.randn(1, 4, 400)
    whole, start = (
        codec.decode(latents, num_samples=count, generator=torch.Generator().manual_seed(3))
        for count in (None, num_samples)
    )
    torch.testing.assert_close(start, whole[..., :num_samples], rtol=0, atol=0)


@pytest.mark.parametrize("num_samples", [1, 1535, 1536, 4096, 34_304, 1_000_003])
def test_any_length_comes_back_exactly(codec: Music2LatentAutoencoder, num_samples: int) -> None:
    latents = codec.encode(0.1 * torch.randn(1, 1, num_samples))
    assert latents.shape[-1] == codec.num_latent_frames(num_samples)
    waveform = codec.decode(latents, num_samples=num_samples)
    assert waveform.shape == (1, 1, num_samples)
    assert waveform.isfinite().all()


@pytest.mark.parametrize("pieces", [[1] * 29, [29], [5, 1, 20, 3]])
def test_a_decoded_stream_is_the_decoded_piece_sample_by_sample(
    codec: Music2LatentAutoencoder, pieces: list[int]
) -> None:
    latents = torch.randn(2, 8, 29)
    whole = codec.decode(latents, num_samples=13_000, generator=torch.Generator().manual_seed(3), windows=SMALL)
    stream = codec.stream_decode(
        latents.split(pieces, dim=-1), 13_000, generator=torch.Generator().manual_seed(3), windows=SMALL
    )
    torch.testing.assert_close(torch.cat(list(stream), dim=-1), whole, rtol=0, atol=0)


@pytest.mark.parametrize("piece", [1000, 777, 40_000])
def test_an_encoded_stream_is_the_encoded_piece(codec: Music2LatentAutoencoder, piece: int) -> None:
    waveform = 0.1 * torch.randn(2, 2, 20_011)
    whole = codec.encode(waveform, windows=SMALL)
    stream = torch.cat(list(codec.stream_encode(waveform.split(piece, dim=-1), windows=SMALL)), dim=-1)
    torch.testing.assert_close(stream, whole, rtol=0, atol=0)


def test_the_first_audio_comes_after_one_window(codec: Music2LatentAutoencoder) -> None:
    consumed = 0

    def latents() -> Iterator[torch.Tensor]:
        nonlocal consumed
        while True:
            consumed += 1
            yield torch.randn(1, 4, 1)

    first = next(codec.stream_decode(latents(), windows=SMALL))
    assert consumed == SMALL.size
    assert first.shape[-1] == (SMALL.size - SMALL.context - SMALL.fade // 2) * codec.samples_per_latent - 384
    assert LOW_LATENCY.size < Windows().size


def test_latents_are_forgotten_when_their_windows_are_done(codec: Music2LatentAutoencoder) -> None:
    divider = Divider(SMALL)
    for available in range(1, 200):
        list(divider.complete(available))
        assert available - divider.first_needed(available) <= 2 * SMALL.size


def test_windows_hardly_change_the_result_inside(codec: Music2LatentAutoencoder) -> None:
    waveform = tone(300.0, 0.6)[None]
    whole, divided = codec.encode(waveform), codec.encode(waveform, windows=Windows(size=24, context=10, fade=2))
    assert whole.shape[-1] > 24
    assert (whole - divided).abs().mean() < 0.15 * whole.abs().mean()


def test_an_item_of_a_long_batch_equals_the_item_alone(codec: Music2LatentAutoencoder) -> None:
    latents = torch.randn(8, 4, 25)
    generators = [torch.Generator().manual_seed(k) for k in range(8)]
    together = codec.decode(latents, generator=generators, windows=SMALL)
    alone = codec.decode(latents[5:6], generator=torch.Generator().manual_seed(5), windows=SMALL)
    torch.testing.assert_close(together[5:6], alone, rtol=0, atol=0)


def test_windows_that_an_accelerator_computes_together_are_equally_long(codec: Music2LatentAutoencoder) -> None:
    spans = places(SMALL, 57)
    groups = list(codec._groups(iter(spans), 1, torch.device("cuda")))
    assert [span for group in groups for span in group] == spans
    assert len(groups[0]) > 1
    assert all(len({stop - start for start, stop in group}) == 1 for group in groups)


def test_several_steps_run_in_windows(codec: Music2LatentAutoencoder) -> None:
    latents = torch.randn(1, 4, 25)
    one, two = (
        codec.decode(latents, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), windows=SMALL)
        for steps in (1, 2)
    )
    assert one.shape == two.shape
    assert (one - two).abs().max() > 1e-3


def decode_compiled_and_not(folder: Path) -> None:
    """Run in a process without the shape checks of the tests, which cannot be compiled."""
    codec = Music2LatentAutoencoder.from_pretrained(folder)
    latents, generator = torch.randn(1, 4, 25), torch.Generator()
    eager = codec.decode(latents, generator=generator.manual_seed(0), windows=SMALL)
    codec.compile_windows(SMALL, backend="eager", fullgraph=True)
    compiled = codec.decode(latents, generator=generator.manual_seed(0), windows=SMALL)
    torch.testing.assert_close(compiled, eager)
    assert codec.decode(latents[..., :7]).shape[-1] == 7 * codec.samples_per_latent - codec.spectrogram.overlap
    torch._dynamo.reset()


def test_the_networks_can_be_compiled_for_windows(
    codec: Music2LatentAutoencoder, new_process: ForkServerContext, tmp_path: Path
) -> None:
    codec.save_pretrained(tmp_path)
    process = new_process.Process(target=decode_compiled_and_not, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_wrong_sample_rate_is_refused_with_the_remedy(codec: Music2LatentAutoencoder) -> None:
    with pytest.raises(ValueError, match=r"at 48000 Hz .* 44100 Hz; .*resample\(waveform, 48000, 44100\)"):
        codec.encode(torch.zeros(1, 1, 100), sample_rate=48_000)
    codec.encode(torch.zeros(1, 1, 100), sample_rate=44_100)


def test_a_stream_leaves_the_gradient_mode_of_its_consumer_alone(codec: Music2LatentAutoencoder) -> None:
    for piece in codec.stream_decode([torch.randn(1, 4, 25, requires_grad=True)], windows=SMALL):
        assert torch.is_grad_enabled()
        assert not piece.requires_grad


def test_bad_streams_are_refused(codec: Music2LatentAutoencoder) -> None:
    with pytest.raises(ValueError, match="the stream holds no latents"):
        list(codec.stream_decode([]))
    with pytest.raises(ValueError, match="the stream holds no audio"):
        list(codec.stream_encode([]))
    with pytest.raises(ValueError, match=r"covered 1152 samples, fewer than num_samples=5000"):
        list(codec.stream_decode([torch.zeros(1, 4, 3)], num_samples=5000))
    with pytest.raises(ValueError, match=r"the first has \(1, 4\), piece 1 has \(2, 4\)"):
        list(codec.stream_decode([torch.zeros(1, 4, 3), torch.zeros(2, 4, 3)]))
    with pytest.raises(ValueError, match=r"the first has \(1, 1\), piece 1 has \(1, 2\)"):
        list(codec.stream_encode([torch.zeros(1, 1, 300), torch.zeros(1, 2, 300)]))


def test_silence_has_a_silent_spectrogram_and_finite_gradients() -> None:
    spectrogram = ComplexSpectrogram()
    silence = torch.zeros(1, 8192, requires_grad=True)
    frames = spectrogram(silence)
    assert frames.abs().max() == 0
    back = spectrogram.inverse(frames)
    assert back.abs().max() == 0
    back.sum().backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_codes_long_audio(codec: Music2LatentAutoencoder, dtype: torch.dtype) -> None:
    codec.to(dtype)
    latents = codec.encode(tone(300.0, 0.3)[None], windows=SMALL)
    assert latents.dtype == dtype
    assert codec.decode(latents, windows=SMALL).isfinite().all()


def test_what_is_no_finite_tensor_is_refused(codec: Music2LatentAutoencoder) -> None:
    with pytest.raises(TypeError, match=r"latents must be a torch tensor, got ndarray; torch\.from_numpy"):
        check_tensor("latents", torch.zeros(1, 4, 100).numpy())
    for latents in (torch.full((1, 4, 3), torch.nan), torch.zeros(1, 4, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match="latents must be finite floating-point numbers"):
            codec.decode(latents)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        codec.decode(torch.zeros(1, 4, 3), num_samples=0)
    with pytest.raises(ValueError, match=r"for \(channels, samples\) waveform\[None\]"):
        codec.encode(torch.zeros(2, 100))
