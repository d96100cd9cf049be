import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from latent_diffusion.conditions import NO_BEAT
from latent_diffusion.data import CodecInfo, LatentClips, LatentItem, LatentStatistics, read_shard, write_shard

CODEC = CodecInfo(codec_id="tiny", latent_channels=3, latent_rate=80.0)


def item(name: str, num_frames: int, **facts) -> LatentItem:
    latents = torch.randn(3, num_frames, generator=torch.Generator().manual_seed(num_frames))
    known = {"captions": (f"about {name}",), "seconds": num_frames / 80.0}
    return LatentItem(latents=latents, file_name=name, **(known | facts))


ITEMS = [
    item("a.wav", 5, captions=("slow piano", "quiet piano"), tempo=70.0, key="A minor"),
    item("b.wav", 9, tempo=120.0, first_beat=0.05),
    item("c.wav", 1),
]


@pytest.fixture
def folder(tmp_path):
    write_shard(tmp_path / "latents-00000.safetensors", ITEMS[:2], CODEC)
    write_shard(tmp_path / "latents-00001.safetensors", ITEMS[2:], CODEC)
    LatentStatistics.of([one.latents for one in ITEMS]).save(tmp_path)
    return tmp_path


@pytest.fixture
def clips(folder):
    clips = LatentClips(folder, max_frames=6)
    clips.embeddings = {caption: torch.full((k + 1, 2), float(k)) for k, caption in enumerate(clips.captions)}
    return clips


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_shard_comes_back_as_it_was_written(tmp_path):
    write_shard(tmp_path / "latents-00000.safetensors", ITEMS, CODEC)
    items, codec = read_shard(tmp_path / "latents-00000.safetensors")
    assert codec == CODEC
    assert [one.record() for one in items] == [one.record() for one in ITEMS]


def test_latents_are_stored_in_half_precision(tmp_path):
    write_shard(tmp_path / "latents-00000.safetensors", ITEMS, CODEC)
    items, _ = read_shard(tmp_path / "latents-00000.safetensors")
    for written, read in zip(ITEMS, items, strict=True):
        assert_close(read.latents, written.latents.half(), rtol=0, atol=0)


def test_a_shard_appears_under_its_name_only_when_complete(tmp_path):
    write_shard(tmp_path / "latents-00000.safetensors", ITEMS, CODEC)
    assert [path.name for path in tmp_path.iterdir()] == ["latents-00000.safetensors"]


def test_a_shard_that_was_not_finished_is_not_read(folder):
    (folder / "latents-00002.partial").write_bytes(b"half of it")
    assert len(LatentClips(folder, max_frames=6)) == 3


def test_others_may_read_a_shard(tmp_path):
    write_shard(tmp_path / "latents-00000.safetensors", ITEMS, CODEC)
    assert (tmp_path / "latents-00000.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 100])
def test_a_file_that_is_no_shard_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "latents-00000.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"latents-00000\.safetensors is not a latent shard as encode_dataset\.py"):
        read_shard(path)


def test_statistics_are_those_of_all_frames():
    statistics = LatentStatistics.of([one.latents for one in ITEMS])
    everything = np.concatenate([one.latents.numpy().astype(np.float64) for one in ITEMS], axis=1)
    np.testing.assert_allclose(statistics.mean, everything.mean(1), rtol=1e-10)
    np.testing.assert_allclose(statistics.std, everything.std(1, ddof=1), rtol=1e-10)
    assert statistics.num_frames == 15


def test_a_constant_channel_does_not_give_a_zero_deviation():
    assert LatentStatistics.of([torch.ones(1, 10)]).std == (1e-4,)


def test_statistics_come_back_as_they_were_saved(tmp_path):
    statistics = LatentStatistics.of([one.latents for one in ITEMS])
    statistics.save(tmp_path)
    assert LatentStatistics.load(tmp_path) == statistics


def test_a_set_holds_the_items_of_all_shards_in_order(clips):
    assert [one.file_name for one in clips.items] == ["a.wav", "b.wav", "c.wav"]
    assert clips.codec == CODEC


def test_captions_are_listed_once_with_the_empty_prompt(clips):
    assert clips.captions == ["", "about b.wav", "about c.wav", "quiet piano", "slow piano"]


def test_shards_of_different_codecs_are_an_error(folder):
    other = CodecInfo(codec_id="other", latent_channels=3, latent_rate=80.0)
    write_shard(folder / "latents-00002.safetensors", ITEMS, other)
    with pytest.raises(ValueError, match=r"00002\.safetensors was made by .*'other'.*'tiny'"):
        LatentClips(folder, max_frames=6)


def test_missing_statistics_are_an_error_that_says_what_to_run(folder):
    (folder / "statistics.json").unlink()
    with pytest.raises(ValueError, match=r"statistics\.json is missing: .*run scripts/encode_dataset\.py again"):
        LatentClips(folder, max_frames=6)


def test_a_folder_without_shards_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"found no latents-\*\.safetensors in .*scripts/encode_dataset\.py"):
        LatentClips(tmp_path, max_frames=6)


def test_a_draw_is_a_function_of_index_and_generator(clips):
    first, second = clips.draw(1, seeded(3)), clips.draw(1, seeded(3))
    for name in first:
        assert_close(second[name], first[name], rtol=0, atol=0)


def test_draws_visit_every_stretch_and_every_caption(clips):
    starts = {clips.draw(1, seeded(k))["latents"][0, 0].item() for k in range(50)}
    captions = {len(clips.draw(0, seeded(k))["text"]) for k in range(50)}
    assert starts == set(ITEMS[1].latents.half()[0, :4].tolist())
    assert captions == {4, 5}  # tokens of the two captions


def test_a_long_clip_is_cropped_and_its_duration_with_it(clips):
    drawn = clips.draw(1, seeded())
    assert drawn["latents"].shape == (3, 6)
    assert drawn["duration"].item() == pytest.approx(6 / 80)


def test_a_short_clip_is_taken_whole(clips):
    drawn = clips.draw(0, seeded())
    assert_close(drawn["latents"], ITEMS[0].latents.half().float(), rtol=0, atol=0)
    assert drawn["duration"].item() == pytest.approx(5 / 80)


def test_tempo_and_key_come_as_numbers(clips):
    drawn = clips.draw(0, seeded())
    assert (drawn["tempo"].item(), drawn["key"].item()) == (70.0, 21)
    drawn = clips.draw(2, seeded())
    assert (drawn["tempo"].item(), drawn["key"].item()) == (0.0, 24)


def test_beats_count_from_the_bar_line_of_the_whole_clip(clips):
    latents = ITEMS[1].latents.half().float()
    for seed in range(4):  # stretches of six of the nine frames
        drawn = clips.draw(1, seeded(seed))
        start = next(k for k in range(4) if torch.equal(drawn["latents"], latents[:, k : k + 6]))
        seconds = torch.arange(start, start + 6) / 80.0
        assert_close(drawn["beats"], ((seconds - 0.05) * 2) % 48, rtol=0, atol=1e-4)


def test_there_are_no_beats_where_the_bar_line_is_not_known(clips):
    assert (clips.draw(0, seeded())["beats"] == NO_BEAT).all()


def test_latents_that_are_not_finite_are_an_error_that_names_the_clip(clips):
    clips.items[1].latents[0] = float("nan")
    with pytest.raises(ValueError, match=r"the latents of b\.wav hold NaN"):
        clips.draw(1, seeded())


def test_a_batch_is_padded_with_zeros_and_says_so(clips):
    items = [clips.draw(index, seeded()) for index in range(3)]
    batch = clips.collate(items)
    assert batch["latents"].shape == (3, 3, 6)
    assert batch["mask"].sum(1).tolist() == [5, 6, 1]
    assert batch["text_mask"].sum(1).tolist() == [len(one["text"]) for one in items]
    assert (batch["latents"] * ~batch["mask"][:, None]).abs().sum() == 0
    assert (batch["text"] * ~batch["text_mask"][..., None]).abs().sum() == 0


def test_a_batch_holds_every_item_unchanged(clips):
    items = [clips.draw(index, seeded()) for index in range(3)]
    batch = clips.collate(items)
    for index, one in enumerate(items):
        assert_close(batch["latents"][index][:, batch["mask"][index]], one["latents"], rtol=0, atol=0)
        assert_close(batch["text"][index][batch["text_mask"][index]], one["text"], rtol=0, atol=0)
        assert_close(batch["duration"][index], one["duration"], rtol=0, atol=0)


def test_the_header_of_a_shard_is_readable_json(folder):
    """Other tools can read what is in a shard without our code."""
    content = (folder / "latents-00000.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["items"])[0]["captions"] == ["slow piano", "quiet piano"]
