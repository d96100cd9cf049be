"""The evaluation scripts from end to end, on tiny models and short audio."""

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from autoencoder import Music2LatentAutoencoder
from pipelines import Music2LatentPipeline
from pipelines.evaluation.results import EvaluationResult
from scripts import evaluate_autoencoder, evaluate_generation, probe_latents
from scripts.evaluate_autoencoder import AutoencoderEvaluationConfig
from scripts.evaluate_generation import GenerationEvaluationConfig
from scripts.probe_latents import ProbeConfig
from tests.conftest import SAMPLE_RATE, randomize, tone


def write_clips(folder: Path, count: int, seconds: float = 1.0, channels: int = 1) -> Path:
    """Captioned tones and noises with labels."""
    folder.mkdir(parents=True)
    records = []
    for index in range(count):
        low = index % 2 == 0
        waveform = tone(150.0 + 7 * index if low else 1500.0 + 70 * index, seconds, channels=channels)
        soundfile.write(folder / f"{index:02d}.wav", waveform.T.numpy(), SAMPLE_RATE)
        records.append(
            {
                "file_name": f"{index:02d}.wav",
                "text": "low sine" if low else "high sine",
                "tempo": 80.0 + 10 * (index % 5),
                "key": "A minor" if low else "C major",
                "style": "low" if low else "high",
                "instruments": ["piano"] if low else ["flute", "drums"],
            }
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_evaluating_a_codec_twice_writes_the_same_results(codec: Music2LatentAutoencoder, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    config = AutoencoderEvaluationConfig(
        autoencoder=tmp_path / "codec",
        data_dir=write_clips(tmp_path / "music", 4, channels=2),
        output_dir=tmp_path / "first",
        opus_kbps=(12.0,),
        num_inference_steps=(1, 2),
        num_curve_files=1,
        num_visqol_files=1,
        embeddings=("basic-pitch",),
        num_replicates=50,
        num_examples=1,
        num_workers=1,
    )
    first = evaluate_autoencoder.main(config)
    second = evaluate_autoencoder.main(dataclasses.replace(config, output_dir=tmp_path / "second", num_examples=0))
    assert first.read_bytes() == second.read_bytes()
    result = EvaluationResult.load(first)
    assert list(result.systems) == ["codec", "spectrogram", "Opus 12", "noise"]
    assert result.systems["spectrogram"].estimates["SI-SDR (dB)"].value > 40
    assert {"ViSQOL", "FAD basic-pitch", "side level difference (dB)"} <= set(result.systems["codec"].estimates)
    assert len(result.models["basic-pitch"]["sha256"]) == 64
    assert [len(curve.points["codec"]) for curve in result.curves] == [12, 2, 2]
    page = (tmp_path / "first" / "report.html").read_text()
    assert page.count("<audio") == 3  # original, codec, Opus 12
    assert "http" not in page  # self-contained
    assert {path.name for path in (tmp_path / "first").glob("*.png")} == {"quality.png", "curves.png"}


def test_shards_are_evaluated_as_the_files_that_they_hold(tmp_path: Path) -> None:
    music, shards = write_clips(tmp_path / "music", 4), tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "000000.tar", "w") as archive:
        for path in sorted(music.glob("*.wav")):
            archive.add(path, arcname=path.name)
    config = AutoencoderEvaluationConfig(
        data_dir=music,
        output_dir=tmp_path / "of_files",
        opus_kbps=(12.0,),
        num_visqol_files=0,
        embeddings=(),
        held_out_embedding=None,
        num_replicates=20,
        num_examples=1,
        num_workers=1,
    )
    of_files = EvaluationResult.load(evaluate_autoencoder.main(config))
    config = dataclasses.replace(config, data_dir=shards, output_dir=tmp_path / "of_shards")
    of_shards = EvaluationResult.load(evaluate_autoencoder.main(config))
    assert len(of_shards.items) == 4
    assert set(of_shards.items.values()) == set(of_files.items.values())


def test_two_codecs_are_compared_and_the_opus_beside_them_is_equal(
    codec: Music2LatentAutoencoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    music, results = write_clips(tmp_path / "music", 4), []
    for seed in (1, 2):
        randomize(codec, seed)
        codec.save_pretrained(tmp_path / f"codec{seed}")
        config = AutoencoderEvaluationConfig(
            autoencoder=tmp_path / f"codec{seed}",
            data_dir=music,
            output_dir=tmp_path / str(seed),
            opus_kbps=(12.0,),
            num_curve_files=0,
            num_visqol_files=0,
            embeddings=(),
            held_out_embedding=None,
            num_replicates=50,
            num_examples=0,
            num_workers=1,
        )
        results.append(evaluate_autoencoder.main(config))
    capsys.readouterr()
    config = AutoencoderEvaluationConfig(compare=(results[0], results[1]), output_dir=tmp_path)
    assert evaluate_autoencoder.main(config).name == "comparison.html"
    printed = capsys.readouterr().out
    assert "paired bootstrap" in printed
    assert "codec " in printed
    assert "Opus 12" not in printed


def test_evaluating_a_pipeline(pipeline: Music2LatentPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "pipeline")
    music = write_clips(tmp_path / "music", 4, seconds=0.6)
    config = GenerationEvaluationConfig(
        pipeline=tmp_path / "pipeline",
        prompts=music / "metadata.jsonl",
        reference_dir=music,
        training_dir=music,
        output_dir=tmp_path / "out",
        seeds_per_prompt=2,
        audio_length_in_s=0.5,
        num_inference_steps=2,
        steps_curve=(1,),
        num_edits=2,
        embeddings=("basic-pitch",),
        num_replicates=50,
        num_examples=1,
        num_workers=1,
    )
    path = evaluate_generation.main(config)
    result = EvaluationResult.load(path)
    assert list(result.systems) == ["generated", "edits", "loops", "real"]
    assert 0 <= result.systems["edits"].estimates["seam rank"].value <= 1
    assert 0 <= result.systems["loops"].estimates["loop seam rank"].value <= 1
    assert {result.systems[name].facts["pieces"] for name in ("edits", "loops")} == {"2"}
    generated, real = result.systems["generated"].estimates, result.systems["real"].estimates
    assert generated["duration error (s)"].value == pytest.approx(0, abs=1e-4)
    assert {"key (weighted), gain", "FAD basic-pitch", "diversity of seeds basic-pitch"} <= set(generated)
    assert real["distance to training basic-pitch"].value == pytest.approx(0, abs=1e-5)
    assert generated["distance to training basic-pitch"].value > 0.01
    assert [x for x, _ in result.curves[0].points["generated"]] == [1.0, 2.0]
    assert len(list((tmp_path / "out" / "audio" / "2_steps").glob("*.wav"))) == 8
    assert (tmp_path / "out" / "report.html").read_text().count("<audio") == 2


def test_finished_pieces_with_seams_are_judged(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "pieces", 4, seconds=2.0)
    records = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for index, record in enumerate(records):
        samples, _ = soundfile.read(folder / record["file_name"])
        samples[SAMPLE_RATE:] *= 0.01  # a rough edit
        soundfile.write(folder / record["file_name"], samples, SAMPLE_RATE)
        record |= {"seams": [1.0], "loop": True, "seconds": 2.5, "text": f"piece {index}"}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = GenerationEvaluationConfig(
        audio_dir=folder,
        reference_dir=folder,
        training_dir=None,
        output_dir=tmp_path / "out",
        embeddings=("basic-pitch",),
        num_replicates=20,
        num_examples=0,
        num_workers=1,
    )
    estimates = EvaluationResult.load(evaluate_generation.main(config)).systems["generated"].estimates
    assert estimates["seam rank"].value > 0.95
    assert estimates["loop seam rank"].value > 0.9
    assert estimates["duration error (s)"].value == pytest.approx(-0.5)


def test_all_broken_files_are_named_before_anything_is_generated(
    pipeline: Music2LatentPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "pipeline")
    music = write_clips(tmp_path / "music", 4, seconds=0.6)
    (music / "cut.wav").write_bytes(next(music.glob("*.wav")).read_bytes()[:20])
    training = write_clips(tmp_path / "training", 1, seconds=0.6)
    soundfile.write(training / "slow.wav", np.zeros(8000), 8000)
    config = GenerationEvaluationConfig(
        pipeline=tmp_path / "pipeline",
        prompts=music / "metadata.jsonl",
        reference_dir=music,
        training_dir=training,
        output_dir=tmp_path / "out",
        num_workers=1,
    )
    with pytest.raises(ValueError, match=r"(?s)2 files cannot be judged.*cut\.wav.*slow\.wav is at 8000 Hz"):
        evaluate_generation.main(config)
    assert not (tmp_path / "out").exists()


def test_probes_find_what_is_in_the_latents(codec: Music2LatentAutoencoder, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    config = ProbeConfig(
        autoencoder=tmp_path / "codec",
        data_dir=write_clips(tmp_path / "clips", 24, seconds=0.5),
        output_dir=tmp_path / "out",
        num_replicates=50,
        num_workers=1,
    )
    result = EvaluationResult.load(probe_latents.main(config))
    assert list(result.metrics) == ["style", "tempo class", "key", "instruments"]
    for features, least in (("latents", 0.7), ("features", 0.7), ("log-mel", 0.9)):  # the codec has random weights
        assert result.systems[features].estimates["style"].value > least  # low and high tones
        assert result.systems[features].estimates["instruments"].value > least
    assert result.systems["log-mel"].estimates["tempo class"].low < 0.5  # steady tones have no tempo
    assert (tmp_path / "out" / "probes.png").is_file()


def test_impossible_requests_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either --pipeline, a folder"):
        evaluate_generation.main(GenerationEvaluationConfig())
    with pytest.raises(ValueError, match="'clap:x' is not among the embeddings"):
        evaluate_autoencoder.main(AutoencoderEvaluationConfig(held_out_embedding="clap:x"))
    folder = write_clips(tmp_path / "short", 4, seconds=0.5)
    (folder / "metadata.jsonl").rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(ValueError, match=r"no clip of .*short has labels"):
        probe_latents.main(ProbeConfig(autoencoder=tmp_path, data_dir=folder))
    config = AutoencoderEvaluationConfig(data_dir=folder, output_dir=tmp_path, num_workers=1)
    (folder / "01.wav").write_bytes(b"no audio at all")
    message = r"files cannot be judged[\s\S]*00\.wav has 0\.50 s; 1 s is the least[\s\S]*02\.wav"
    with pytest.raises(ValueError, match=message):
        evaluate_autoencoder.main(config)


def test_results_do_not_depend_on_torchs_random_state(codec: Music2LatentAutoencoder) -> None:
    codes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = probe_latents.random_encoder(codec, seed=0)
        codes.append(model.encode(tone(440, 0.5)[None]).numpy())
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize("name", ["pipeline", "audio_dir", "reference_dir", "training_dir"])
def test_a_folder_that_is_not_there_is_an_error_before_anything_is_generated(tmp_path, name):
    folders = {"audio_dir": tmp_path} if name != "pipeline" else {}
    config = GenerationEvaluationConfig(**(folders | {name: tmp_path / "none"}))
    with pytest.raises(ValueError, match=rf"there is no folder .*none; --{name} needs one"):
        evaluate_generation.main(config)


def test_a_folder_without_a_pipeline_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds no pipeline \(no model_index.json\)"):
        evaluate_generation.main(GenerationEvaluationConfig(pipeline=tmp_path))
