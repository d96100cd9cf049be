"""All scripts from audio files to generated music, as one chain of tiny models, and their configurations."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from jsonargparse import auto_cli
from safetensors.torch import load_file
from torch.testing import assert_close

from autoencoder import Music2LatentAutoencoder
from autoencoder.audio import read_audio
from latent_diffusion import LatentDiT
from latent_diffusion.data import LatentClips
from latent_diffusion.tempo_prior import TempoPrior
from pipelines import Music2LatentPipeline
from pipelines.output import read_metadata
from scripts import encode_dataset, generate, train_autoencoder, train_latent_dit
from scripts.save_pipeline import SaveConfig
from scripts.train_autoencoder import AutoencoderTrainingConfig
from scripts.train_latent_dit import LatentDiTTrainingConfig
from tests.conftest import SAMPLE_RATE, tone, write_music
from tests.scripts.conftest import WEIGHTS, codec_config, dit_config, encoding_config

CONFIGS = sorted((Path(__file__).parents[2] / "scripts" / "configs").glob("*.yaml"))


def test_the_chain_ends_with_music(chain):
    info = soundfile.info(chain.audio)
    assert (info.frames, info.samplerate) == (13_230, SAMPLE_RATE)
    assert chain.audio.with_suffix(".png").stat().st_size > 1000


def test_the_same_seed_generates_the_same_file(chain, tmp_path):
    again = generate.main("low sine", pipeline=chain.pipeline, output=tmp_path / "a.wav", audio_length_in_s=0.3)
    assert again.read_bytes() == chain.audio.read_bytes()


def test_a_generated_file_is_continued_with_its_own_beats(chain, tmp_path):
    settings = {"pipeline": chain.pipeline, "audio": chain.audio, "audio_length_in_s": 0.6}
    first = read_metadata(chain.audio)
    longer = read_metadata(generate.main("high sine", output=tmp_path / "longer.wav", **settings))
    assert (longer["tempo"], longer["first_beat_in_s"]) == (first["tempo"], first["first_beat_in_s"])
    assert first["tempo"] > 0
    waveform = read_audio(chain.audio, SAMPLE_RATE)
    soundfile.write(tmp_path / "other.wav", waveform.T.numpy(), SAMPLE_RATE)
    settings["audio"] = tmp_path / "other.wav"
    other = read_metadata(generate.main("high sine", output=tmp_path / "longer.wav", **settings))
    assert (other["tempo"], other["first_beat_in_s"]) == (0.0, None)


def test_the_exported_codec_carries_its_fingerprint(chain):
    codec = Music2LatentAutoencoder.from_pretrained(chain.codec)
    assert codec.config.codec_id == codec.fingerprint()


def test_the_exported_transformer_knows_its_codec_data_and_text_encoder(chain, text_encoder_dir):
    config = LatentDiT.from_pretrained(chain.transformer).config
    clips = LatentClips(chain.latents / "train", max_frames=1000)
    assert config.codec_id == clips.codec.codec_id
    assert tuple(config.latents_mean) == clips.statistics.mean
    assert tuple(config.latents_std) == clips.statistics.std
    assert config.text_encoder == str(text_encoder_dir)


def test_the_tempo_prior_is_made_of_the_captions_and_goes_with_the_transformer(chain):
    prior = TempoPrior.from_pretrained(chain.transformer.parent / "tempo_prior")
    pipe = Music2LatentPipeline.from_pretrained(chain.pipeline)
    assert torch.equal(pipe.tempo_prior.proj.weight, prior.proj.weight)
    embeds, mask, *_ = pipe.encode_prompt(["low sine", "high sine"])
    low, high = prior.draw(embeds, mask, torch.tensor([0.5, 0.5]))  # of 27 and 55, and of 110 and 220 BPM
    assert low < 70 < 100 < high


def test_without_tempos_there_is_no_prior(chain):
    data = LatentClips(chain.latents / "train", 10)
    data.items = [replace(item, tempo=None) for item in data.items]
    assert train_latent_dit.build_tempo_prior(data, "an encoder") is None


@pytest.mark.parametrize(("folder", "exported"), [("codec", "codec"), ("dit", "transformer")])
def test_the_averaged_weights_are_exported(chain, folder, exported):
    checkpoint = chain.root / folder / "checkpoints" / "step-00000003"
    average = torch.load(checkpoint / "custom_checkpoint_0.pkl", weights_only=True)["shadow_params"]
    trained = load_file(checkpoint / "model.safetensors")
    weights = load_file(getattr(chain, exported) / WEIGHTS)
    assert sorted(float(one.double().sum()) for one in weights.values()) == pytest.approx(
        sorted(float(one.double().sum()) for one in average)
    )
    assert any(not torch.equal(weights[name], trained[f"model.{name}"]) for name in weights)


def test_the_latent_set_holds_every_clip_with_its_facts(chain):
    items = LatentClips(chain.latents / "train", max_frames=1000).items
    assert [(item.file_name, item.captions, item.tempo, item.key) for item in items] == [
        ("110.wav", ("low sine",), 27.5, "A minor"),
        ("220.wav", ("low sine",), 55.0, "A minor"),
        ("440.wav", ("high sine",), 110.0, "A minor"),
        ("880.wav", ("high sine",), 220.0, "A minor"),
    ]
    assert [item.seconds for item in items] == [1.0] * 4


def test_encoded_latents_are_those_of_the_codec(chain):
    codec = Music2LatentAutoencoder.from_pretrained(chain.codec).eval()
    samples, _ = soundfile.read(chain.music / "train" / "440.wav", dtype="float32")
    item = LatentClips(chain.latents / "train", max_frames=1000).items[2]
    expected = codec.encode(torch.from_numpy(samples)[None, None])[0]
    assert_close(item.latents.float(), expected, rtol=1e-3, atol=1e-3)


def test_others_may_read_the_saved_pipeline(chain):
    modes = {path.stat().st_mode & 0o777 for path in chain.pipeline.rglob("*.safetensors")}
    assert modes == {0o644}


def test_the_saved_pipeline_loads(chain):
    assert Music2LatentPipeline.from_pretrained(chain.pipeline).sample_rate == SAMPLE_RATE


def test_a_finished_training_started_again_exports_the_same(chain):
    before = load_file(chain.codec / WEIGHTS)
    again = train_autoencoder.main(codec_config(chain.music, chain.root / "codec"))
    for name, tensor in load_file(again / WEIGHTS).items():
        assert_close(tensor, before[name], rtol=0, atol=0)


def test_held_out_clips_may_be_longer_than_all_others(chain, text_encoder_dir, tmp_path):
    music = write_music(tmp_path / "music")
    for path in (music / "train").glob("*.wav"):
        soundfile.write(path, tone(300, 0.2)[0].numpy(), SAMPLE_RATE)
    for split in ("train", "test"):
        encode_dataset.main(encoding_config(music / split, chain.codec, tmp_path / "latents" / split))
    config = dit_config(tmp_path / "latents", chain.codec, text_encoder_dir, tmp_path / "dit", max_steps=2)
    assert train_latent_dit.main(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_is_a_configuration_of_its_script(path, tmp_path):
    is_codec = path.stem.startswith("autoencoder_")
    kind, model = (
        (AutoencoderTrainingConfig, Music2LatentAutoencoder) if is_codec else (LatentDiTTrainingConfig, LatentDiT)
    )
    required = ["data_dir", "validation_dir", "output_dir"] + ([] if is_codec else ["autoencoder"])
    arguments = ["--config", str(path), *(f"--{name}={tmp_path}" for name in required)]
    if "lora_rank" in yaml.safe_load(path.read_text()):
        arguments.append(f"--init_from={tmp_path}")
    if "max_steps" not in yaml.safe_load(path.read_text()):
        arguments.append("--max_steps=100000")
    config = auto_cli(kind, args=arguments, as_positional=False)
    with torch.device("meta"):
        assert model(**config.model).num_parameters() > 0


def test_the_configuration_written_beside_a_run_repeats_it(chain, text_encoder_dir):
    arguments = ["--config", str(chain.root / "dit" / "config.yaml")]
    config = auto_cli(LatentDiTTrainingConfig, args=arguments, as_positional=False)
    assert config == dit_config(chain.latents, chain.codec, text_encoder_dir, chain.root / "dit")


def test_a_misspelt_setting_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        auto_cli(SaveConfig, args=["--autoencodr", str(tmp_path)], as_positional=False)
    assert "autoencodr" in capsys.readouterr().err


def test_a_misspelt_model_argument_is_an_error(chain, tmp_path):
    with pytest.raises(TypeError, match="latent_chanels"):
        train_autoencoder.main(codec_config(chain.music, tmp_path, model={"latent_chanels": 4}))
