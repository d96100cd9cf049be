"""Encoding that is stopped and continued, from folders and from shards."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch.testing import assert_close

from latent_diffusion.data import LatentClips
from scripts import encode_dataset
from scripts.compare_recipes import ComparisonConfig, main
from scripts.prepare_audio import PrepareConfig
from scripts.prepare_audio import main as prepare
from tests.conftest import TINY_CODEC
from tests.scripts.conftest import encoding_config


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("latents-*")}


def test_an_encoding_continues_at_the_shard_where_it_was_stopped(chain, tmp_path, capsys):
    config = encoding_config(chain.music / "train", chain.codec, tmp_path / "latents", items_per_shard=1)
    encode_dataset.main(config)
    whole, before = LatentClips(config.output_dir, 1000), times(config.output_dir)
    for name in ("left_out-00002.json", "left_out-00003.json", "latents-00003.safetensors", "statistics.json"):
        (config.output_dir / name).unlink()  # killed after the third shard, before it was marked as complete
    (config.output_dir / "latents-00003.partial").write_bytes(b"half of it")
    encode_dataset.main(config)
    assert "2 of 4 shards are there already" in capsys.readouterr().out
    after = times(config.output_dir)
    assert {name for name in before if after[name] != before[name]} == {
        "latents-00002.safetensors",
        "latents-00003.safetensors",
    }
    again = LatentClips(config.output_dir, 1000)
    assert again.statistics == whole.statistics
    for one, other in zip(again.items, whole.items, strict=True):
        assert one.record() == other.record()
        assert_close(one.latents, other.latents, rtol=0, atol=0)


def test_shards_of_audio_give_the_latents_of_the_folder(chain, tmp_path):
    settings = {"output_dir": tmp_path / "audio", "num_workers": 0, "files_per_shard": 3}
    prepare(PrepareConfig(input_dir=chain.music / "train", **settings))
    encode_dataset.main(encoding_config(tmp_path / "audio", chain.codec, tmp_path / "latents"))
    items, expected = LatentClips(tmp_path / "latents", 1000).items, LatentClips(chain.latents / "train", 1000).items
    assert [item.record() for item in items] == [item.record() for item in expected]
    for one, other in zip(items, expected, strict=True):
        assert_close(one.latents.float(), other.latents.float(), rtol=1e-2, atol=1e-2)


def test_captions_and_further_columns_come_from_csv_as_well(chain, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    for name in ("110.wav", "220.wav"):
        (music / name).write_bytes((chain.music / "train" / name).read_bytes())
    rows = [
        "file_name,text,tempo,first_beat,key,instruments",
        '110.wav,"low, slow",60,0.5,A minor,"[""sine""]"',
        "220.wav,low sine,,,,",
    ]
    (music / "metadata.csv").write_text("\n".join(rows))
    encode_dataset.main(encoding_config(music, chain.codec, tmp_path / "latents"))
    first, second = LatentClips(tmp_path / "latents", 1000).items
    assert (first.captions, first.tempo, first.key) == (("low, slow",), 60, "A minor")
    assert (first.first_beat, second.first_beat) == (0.5, None)
    assert first.facts == {"instruments": ["sine"]}
    assert (second.captions, second.tempo, second.key, second.facts) == (("low sine",), None, None, {})


def test_the_text_is_one_of_the_captions_and_an_empty_file_is_left_out(chain, tmp_path, capsys):
    music = tmp_path / "music"
    music.mkdir()
    (music / "110.wav").write_bytes((chain.music / "train" / "110.wav").read_bytes())
    soundfile.write(music / "empty.wav", np.zeros((0, 1)), 44_100)
    records = [
        {"file_name": "110.wav", "text": "slow piano", "captions": ["calm keys", "slow piano"]},
        {"file_name": "empty.wav", "text": "nothing"},
    ]
    (music / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    encode_dataset.main(encoding_config(music, chain.codec, tmp_path / "latents"))
    assert "empty.wav is empty" in capsys.readouterr().out
    [item] = LatentClips(tmp_path / "latents", 1000).items
    assert item.captions == ("slow piano", "calm keys")


def test_recipes_are_compared_over_their_seeds(chain, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"model": TINY_CODEC, "max_steps": 2, "warmup_steps": 1, "num_workers": 0}))
    folders = {"data_dir": str(chain.music / "train"), "validation_dir": str(chain.music / "test")}
    config = ComparisonConfig(
        training="autoencoder",
        recipe=recipe,
        output_dir=tmp_path,
        settings=folders | {"batch_size": 2, "validation_seconds": 0.3, "report_to": "none"},
        variants={"plain": {}, "smaller gap": {"last_gap": 0.0001}},
        seeds=[0, 1],
    )
    results = main(config)
    assert set(results) == {"plain", "smaller gap"}
    assert [len(runs) for runs in results.values()] == [2, 2]
    assert json.loads((tmp_path / "result.json").read_text()) == results
    assert "smaller gap: log-mel distance: " in capsys.readouterr().out
    assert main(config) == results  # complete runs are not made again
    with pytest.raises(ValueError, match=r"started with other settings: last_gap was 0\.0001, is 0\.01"):
        main(ComparisonConfig(**(vars(config) | {"variants": {"smaller gap": {"last_gap": 0.01}}})))
