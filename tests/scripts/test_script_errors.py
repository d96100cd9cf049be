"""What the scripts say about audio, metadata and parts that they cannot use."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from autoencoder import Music2LatentAutoencoder
from latent_diffusion.data import LatentClips
from scripts import encode_dataset, generate, train_autoencoder, train_latent_dit
from tests.conftest import SAMPLE_RATE, TINY_CODEC, tone, write_music
from tests.scripts.conftest import codec_config, dit_config, encoding_config


def spoil(folder: Path) -> set[str]:
    """Add one file for each thing that can be wrong with audio; return the names of those that show it."""
    whole = tone(300, 1.0)[0].numpy()
    (folder / "empty.wav").touch()
    (folder / "text.flac").write_text("this is not audio")
    soundfile.write(folder / "8khz.wav", whole[:8000], 8000)
    soundfile.write(folder / "10ms.wav", whole[:441], SAMPLE_RATE)
    soundfile.write(folder / "truncated.wav", whole, SAMPLE_RATE)
    content = (folder / "truncated.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(content[:100])
    soundfile.write(folder / "nan.wav", np.full(SAMPLE_RATE, np.nan), SAMPLE_RATE, subtype="FLOAT")
    return {"empty.wav", "text.flac", "8khz.wav", "10ms.wav", "truncated.wav"}


def test_training_goes_on_without_files_that_cannot_be_used_and_names_them(tmp_path, capsys):
    music = write_music(tmp_path / "music")
    bad = spoil(music / "train")
    assert train_autoencoder.main(codec_config(music, tmp_path / "codec", batch_size=4))
    captured = capsys.readouterr()
    left_out = [line for line in captured.out.splitlines() if line.startswith("left out: ")]
    assert {Path(line.split(": ")[1]).name for line in left_out} == bad
    assert "5 files to train on, 5 left out" in captured.out
    assert "nan.wav holds NaN or infinite samples" in captured.err


def test_no_usable_audio_is_an_error_with_the_first_reason(tmp_path):
    music = write_music(tmp_path / "music")
    for path in (music / "train").glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 4 recordings can be used; .*110\.wav: unreadable"):
        train_autoencoder.main(codec_config(music, tmp_path / "codec"))


def test_training_stops_when_every_item_fails(tmp_path):
    music = write_music(tmp_path / "music")
    for path in (music / "train").glob("*.wav"):
        soundfile.write(path, np.full(SAMPLE_RATE, np.nan), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(RuntimeError, match=r"100 items in a row could not be used; the last: .*holds NaN"):
        train_autoencoder.main(codec_config(music, tmp_path / "codec"))


def test_encoding_names_the_files_that_it_leaves_out(chain, tmp_path, capsys):
    music = write_music(tmp_path / "music") / "train"
    bad = spoil(music) - {"10ms.wav", "truncated.wav"} | {"nan.wav"}  # the other two are just short
    with (music / "metadata.jsonl").open("a") as metadata:
        metadata.writelines(json.dumps({"file_name": name, "text": "bad"}) + "\n" for name in sorted(bad))
    encode_dataset.main(encoding_config(music, chain.codec, tmp_path / "latents"))
    captured = capsys.readouterr()
    for name in bad:
        assert any(name in line for line in captured.out.splitlines() if line.startswith("left out: "))
    assert "4 files left out" in captured.out
    assert len(LatentClips(tmp_path / "latents", max_frames=1000)) == 4


def test_nothing_to_encode_is_an_error(chain, tmp_path):
    music = write_music(tmp_path / "music") / "train"
    for path in music.glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the files could be encoded; the messages above say why"):
        encode_dataset.main(encoding_config(music, chain.codec, tmp_path / "latents"))


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_audio_is_an_error_that_names_it(chain, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=name):
        train_autoencoder.main(codec_config(chain.music, tmp_path / "codec", data_dir=tmp_path / name))


def encode_metadata(chain, tmp_path: Path, content: str) -> None:
    music = write_music(tmp_path / "music") / "train"
    (music / "metadata.jsonl").write_text(content)
    encode_dataset.main(encoding_config(music, chain.codec, tmp_path / "latents"))


GOOD = '{"file_name": "110.wav", "text": "low"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "220.wav"}', r"text \(or captions\) must be non-empty text, got \[None\]"),
        ('{"file_name": "220.wav", "text": " "}', r"must be non-empty text, got \[' '\]"),
        ('{"file_name": "220.wav", "captions": "low"}', r"captions must be a list of texts, got 'low'"),
        ('{"file_name": "220.wav", "text": 3}', r"must be non-empty text, got \[3\]"),
        ('{"text": "low"}', "file_name must name a file in .*, got None"),
        ('{"file_name": "none.wav", "text": "low"}', r"file_name must name a file in .*, got 'none\.wav'"),
        ('{"file_name": "220.wav", "text": "low", "tempo": 5}', "tempo must be a number from 20 to 400 .*, got 5"),
        ('{"file_name": "220.wav", "text": "low", "tempo": "fast"}', "tempo must be .*, got 'fast'"),
        ('{"file_name": "220.wav", "text": "low", "first_beat": "no"}', "first_beat must be seconds .*, got 'no'"),
        ('{"file_name": "220.wav", "text": "low", "first_beat": NaN}', "first_beat must be seconds .*, got nan"),
        ('{"file_name": "220.wav", "text": "low", "key": "H moll"}', "key must be a tonic and a mode .*'H moll'"),
        ('{"file_name": "220.wav", "text": "low", "key": 3}', "key must be a tonic and a mode .* got 3"),
        ('{"file_name": "220.wav"', "Expecting"),
        ('["220.wav", "low"]', "it must be a JSON object"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_line_of_the_metadata_is_an_error_with_its_number(chain, tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"metadata\.jsonl, line 3: .*{message}"):
        encode_metadata(chain, tmp_path, GOOD + "\n" + line + "\n")


def test_empty_metadata_is_an_error(chain, tmp_path):
    with pytest.raises(
        ValueError, match=r"found no metadata\.jsonl or metadata\.csv with a record in .*needs one JSON object a line"
    ):
        encode_metadata(chain, tmp_path, "\n")


def test_missing_metadata_is_an_error_with_an_example(chain, tmp_path):
    with pytest.raises(ValueError, match=r'found no metadata\.jsonl .*"text": "slow piano"'):
        encode_dataset.main(encoding_config(tmp_path, chain.codec, tmp_path / "latents"))


def test_a_folder_that_holds_other_latents_is_an_error(chain):
    config = encoding_config(chain.music / "train", chain.codec, chain.latents / "train")
    with pytest.raises(ValueError, match="of something else: items_per_shard was 3, is 1000; remove them or give"):
        encode_dataset.main(config)


@pytest.fixture
def stereo(tmp_path):
    music = write_music(tmp_path / "music") / "train"
    for path in music.glob("*.wav"):
        soundfile.write(path, tone(300, 1.0, channels=2).T.numpy(), SAMPLE_RATE)
    return music


def test_stereo_files_are_left_out_of_mono_latents_with_the_remedy(chain, stereo, tmp_path, capsys):
    with pytest.raises(ValueError, match="none of the files could be encoded"):
        encode_dataset.main(encoding_config(stereo, chain.codec, tmp_path / "latents"))
    assert "440.wav has 2 channels where 1 are wanted; give --mix_down true" in capsys.readouterr().out


@pytest.mark.parametrize(("settings", "latent_channels"), [({"mix_down": True}, 4), ({"channels": 2}, 8)])
def test_stereo_files_can_be_mixed_down_or_kept(chain, stereo, tmp_path, settings, latent_channels):
    encode_dataset.main(encoding_config(stereo, chain.codec, tmp_path / "latents", **settings))
    clips = LatentClips(tmp_path / "latents", max_frames=1000)
    assert clips.codec.latent_channels == latent_channels
    assert clips.items[0].latents.shape[0] == latent_channels


def test_mixing_down_to_stereo_is_an_error():
    with pytest.raises(ValueError, match="mix_down makes mono, so it needs channels=1, got channels=2"):
        encoding_config(Path(), Path(), Path(), mix_down=True, channels=2)


def test_latents_of_another_codec_are_an_error_that_names_both(chain, text_encoder_dir, tmp_path):
    Music2LatentAutoencoder(**TINY_CODEC, codec_id="other").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"belong to different codecs: .* and other; encode both sets with this"):
        train_latent_dit.main(dit_config(chain.latents, tmp_path / "other", text_encoder_dir, tmp_path / "dit"))


def test_latents_that_were_not_finished_are_an_error(chain, text_encoder_dir, tmp_path):
    (tmp_path / "train").mkdir()
    shard = next((chain.latents / "train").glob("*.safetensors"))
    (tmp_path / "train" / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(ValueError, match=r"statistics\.json is missing"):
        train_latent_dit.main(dit_config(tmp_path, chain.codec, text_encoder_dir, tmp_path / "dit"))


def test_a_pipeline_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"there is no pipeline folder .*missing"):
        generate.main("lofi", pipeline=tmp_path / "missing")


def test_a_loud_file_to_edit_is_made_quieter_and_it_is_said(tmp_path, capsys):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.full(1000, 1.25, np.float32), SAMPLE_RATE, subtype="FLOAT")
    piece = generate.read_piece(path, SAMPLE_RATE)
    np.testing.assert_allclose(piece.audio, 1.0)
    assert "loud.wav reaches 1.250 of full scale" in capsys.readouterr().out
