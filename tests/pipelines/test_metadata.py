"""What a saved file says about how it was made."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from diffusers.guiders import AdaptiveProjectedGuidance

from autoencoder.audio import write_audio
from pipelines import Music2LatentPipeline
from pipelines.output import Music2LatentPipelineOutput, read_metadata


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generate(pipeline, prompt="lofi piano", **changes) -> Music2LatentPipelineOutput:
    settings = {"audio_length_in_s": 0.1, "num_inference_steps": 2, "generator": seeded(5)}
    return pipeline(prompt, **(settings | changes))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_file_says_how_it_was_made(pipeline, tmp_path, suffix):
    [path] = generate(pipeline, negative_prompt="techno", tempo=90.0, key="A minor").save(tmp_path / f"piece{suffix}")
    record = read_metadata(path)
    assert record["prompt"] == "lofi piano"
    assert record["negative_prompt"] == "techno"
    assert (record["tempo"], record["key"], record["seed"], record["index"]) == (90.0, "A minor", 5, 0)
    assert (record["num_inference_steps"], record["guidance"]["guidance_scale"]) == (2, 7.0)
    assert record["audio_length_in_s"] == 0.1
    assert record["codec_id"] == "tiny"
    assert record["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert record["software"].startswith("music2latent-kit")
    with soundfile.SoundFile(path) as file:
        assert file.title == "lofi piano"
        assert file.frames == 4410


def test_the_record_is_enough_to_make_the_piece_again(pipeline, tmp_path):
    first = generate(pipeline, ["techno", "slow pads"], generator=seeded(7), guidance_scale=2.0)
    record = read_metadata(first.save(tmp_path / "piece.wav")[1])
    generator = seeded(record["seed"])
    for _ in range(record["index"]):  # the piece was one of several that shared a generator
        torch.randint(2**62, (), generator=generator)
    again = generate(
        pipeline,
        record["prompt"],
        audio_length_in_s=record["audio_length_in_s"],
        num_inference_steps=record["num_inference_steps"],
        guidance_scale=record["guidance"]["guidance_scale"],
        generator=generator,
    )
    np.testing.assert_allclose(again.audio[0], first.audio[1], atol=1e-4)


def test_without_a_generator_the_record_has_a_seed_for_each_piece(pipeline):
    pieces = generate(pipeline, generator=None, num_waveforms_per_prompt=2)
    for index, record in enumerate(pieces.metadata):
        assert record["index"] == 0
        again = generate(pipeline, generator=seeded(record["seed"]))
        np.testing.assert_allclose(again.audio[0], pieces.audio[index], atol=1e-4)


def test_the_seed_of_a_used_generator_is_not_recorded(pipeline):
    generator = seeded(5)
    assert generate(pipeline, generator=generator).metadata[0]["seed"] == 5
    assert generate(pipeline, generator=generator).metadata[0]["seed"] is None


def test_pieces_that_share_a_generator_of_a_list_have_places_in_it(pipeline):
    shared = seeded(6)
    pieces = generate(pipeline, ["techno", "pads", "lofi"], generator=[shared, seeded(7), shared])
    assert [(record["seed"], record["index"]) for record in pieces.metadata] == [(6, 0), (7, 0), (6, 1)]
    again = generate(pipeline, ["techno", "lofi"], generator=seeded(6))
    np.testing.assert_allclose(again.audio[1], pieces.audio[2], atol=1e-4)


def test_latents_are_not_written_as_audio(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"latents \(1, \d+, \d+\) cannot be written as audio; decode them first"):
        generate(pipeline, output_type="latent").save(tmp_path / "piece.wav")


def test_a_file_of_another_kind_is_an_error(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"ends in .wav, .flac, .ogg, .mp3, got .*piece.txt"):
        generate(pipeline).save(tmp_path / "piece.txt")


def test_every_piece_has_its_own_record(pipeline):
    generators = [seeded(k) for k in range(4)]
    records = generate(
        pipeline, ["techno", "lofi"], num_waveforms_per_prompt=2, tempo=[80.0, None], generator=generators
    ).metadata
    assert [record["prompt"] for record in records] == ["techno", "techno", "lofi", "lofi"]
    assert [record["tempo"] for record in records] == [80.0, 80.0, 0.0, 0.0]
    assert [(record["seed"], record["index"]) for record in records] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_the_model_is_named_without_the_path_to_it(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "my-model")
    loaded = Music2LatentPipeline.from_pretrained(tmp_path / "my-model")
    loaded.set_progress_bar_config(disable=True)
    [path] = generate(loaded).save(tmp_path / "piece.wav")
    assert read_metadata(path)["model"] == "my-model"


def test_guider_and_editing_are_noted(pipeline):
    pipeline.guider = AdaptiveProjectedGuidance(guidance_scale=3.0, eta=0.5)
    [record] = generate(
        pipeline, audio=0.1 * torch.ones(1, 4410), strength=0.5, audio_length_in_s=None, num_inference_steps=4
    ).metadata
    assert record["guider"] == "AdaptiveProjectedGuidance"
    assert record["guidance"]["eta"] == 0.5
    assert (record["edited"], record["strength"]) == (True, 0.5)


def test_settings_that_are_no_numbers_are_written_as_text(pipeline, tmp_path):
    output = generate(pipeline)
    output.metadata[0]["guidance"] = {"layers": range(3)}
    [path] = output.save(tmp_path / "piece.wav")
    assert read_metadata(path)["guidance"] == {"layers": "range(0, 3)"}


@pytest.mark.parametrize("comment", ["", "2004", '{"year": 2004}', "ripped"])
def test_a_file_without_a_record_is_an_error(tmp_path, comment):
    path = Path(tmp_path / "other.flac")
    write_audio(path, torch.zeros(1, 100), 44_100, {"comment": comment} if comment else None)
    with pytest.raises(ValueError, match=f"holds no record of how it was made, its comment is '{comment}'"):
        read_metadata(path)
    path.write_bytes(b"no audio")
    with pytest.raises(ValueError, match="holds no record of how it was made: Error opening"):
        read_metadata(path)
