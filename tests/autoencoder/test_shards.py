"""Audio in WebDataset shards: local, behind a pipe and behind a URL."""

import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from webdataset import TarWriter

from autoencoder import shards as shards_module
from autoencoder.data import RandomCrops
from autoencoder.data_order import PositionedItems, Positions
from autoencoder.recordings import AudioFolder, open_recordings, read_recording
from autoencoder.shard_index import INDEX_SUFFIX, write_index
from autoencoder.shards import AudioShards
from tests.conftest import SAMPLE_RATE, tone


def audio_bytes(samples: np.ndarray, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format=kind)
    return buffer.getvalue()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three shards of four recordings, of which each is a constant that tells its number."""
    (tmp_path / "tars").mkdir()
    for shard in range(3):
        with TarWriter(str(tmp_path / "tars" / f"audio-{shard:03d}.tar")) as tar:
            for number in range(4 * shard, 4 * shard + 4):
                samples = np.full(3000, (number + 1) / 100)
                facts = {"txt": f"number {number}"} if number % 2 else {"json": {"text": f"number {number}"}}
                tar.write({"__key__": f"clip{number:03d}", "flac": audio_bytes(samples)} | facts)
    return tmp_path / "tars"


@pytest.fixture
def server(tars: Path) -> Iterator[str]:
    """The shards behind a URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tars))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def numbers(recordings: AudioShards, sample_rate: int = SAMPLE_RATE) -> list[int]:
    parts = [read_recording(recordings, index, sample_rate, 100, 10) for index in range(len(recordings))]
    return [round(100 * float(part.mean())) - 1 for part in parts]


@pytest.mark.parametrize("form", ["folder", "file", "pattern", "pipe", "url"])
def test_shards_are_read_wherever_they_are(tars: Path, server: str, tmp_path: Path, form: str) -> None:
    source = {
        "folder": str(tars),
        "file": str(tars / "audio-000.tar"),
        "pattern": f"{tars}/audio-{{000..002}}.tar",
        "pipe": f"pipe:cat {tars}/audio-{{000..002}}.tar",
        "url": f"{server}/audio-{{000..002}}.tar",
    }[form]
    recordings = open_recordings(source, tmp_path / "cache")
    assert numbers(recordings) == list(range(4 if form == "file" else 12))
    assert [recordings.facts(index)["text"] for index in (1, 2)] == ["number 1", "number 2"]
    again = open_recordings(source, tmp_path / "cache")  # now with the index from the cache
    assert numbers(again)[:4] == [0, 1, 2, 3]


def test_an_index_beside_a_shard_is_used_only_if_it_is_of_that_shard(tars: Path, tmp_path: Path) -> None:
    path = tars / "audio-000.tar"
    write_index(path, path.with_name(path.name + INDEX_SUFFIX))
    path.write_bytes((tars / "audio-001.tar").read_bytes() + bytes(10240))
    assert numbers(AudioShards(path, tmp_path / "cache")) == [4, 5, 6, 7]


def test_a_file_in_a_shard_that_is_no_audio_is_named(tars: Path, tmp_path: Path) -> None:
    with TarWriter(str(tars / "audio-003.tar")) as tar:
        tar.write({"__key__": "broken", "flac": b"not audio"})
    crops = RandomCrops(AudioShards(tars, tmp_path / "cache"), SAMPLE_RATE, 1000)
    assert len(crops) == 12
    (name,) = crops.skipped
    assert name.endswith("audio-003.tar/broken.flac")
    assert crops.skipped[name].startswith("unreadable")


def test_audio_whose_name_hides_it_is_named(tars: Path, tmp_path: Path) -> None:
    with tarfile.open(tars / "audio-003.tar", "w") as tar:
        for name in ("01. Intro.wav", "b.m4a", "dup.wav", "dup.flac", "empty.wav", "notes.txt"):
            content = b"" if name == "empty.wav" else audio_bytes(np.zeros(3000), "FLAC" if "flac" in name else "WAV")
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    recordings = AudioShards(tars / "audio-003.tar", tmp_path / "cache")
    assert [recordings.name(index).rpartition("/")[2] for index in range(len(recordings))] == ["dup.flac"]
    reasons = {name.rpartition("/")[2]: reason for name, reason in recordings.faults.items()}
    assert set(reasons) == {"01. Intro.wav", "b.m4a", "dup.wav", "empty.wav"}
    assert reasons["01. Intro.wav"] == "WebDataset takes ' Intro.wav' for its suffix: no other dots"
    assert "prepare_audio.py" in reasons["b.m4a"]
    assert reasons["dup.wav"] == "dup.flac has the same key 'dup'"
    again = AudioShards(tars / "audio-003.tar", tmp_path / "cache")  # now with the index from the cache
    assert again.faults == recordings.faults


@pytest.mark.parametrize("content", ["", '{"size": 1', '{"entries": [[1]]}', "[]"])
def test_a_broken_index_is_made_anew(tars: Path, tmp_path: Path, server: str, content: str) -> None:
    path = tars / "audio-000.tar"
    path.with_name(path.name + INDEX_SUFFIX).write_text(content)
    assert numbers(AudioShards(path, tmp_path / "cache")) == [0, 1, 2, 3]
    assert numbers(AudioShards(f"{server}/audio-000.tar", tmp_path / "other")) == [0, 1, 2, 3]
    for cached in (tmp_path / "cache").glob(f"*{INDEX_SUFFIX}"):
        cached.write_text(content)
    assert numbers(AudioShards(path, tmp_path / "cache")) == [0, 1, 2, 3]


def test_a_shard_that_is_missing_or_no_tar_is_named_and_the_others_are_used(tars: Path, tmp_path: Path) -> None:
    (tars / "audio-001.tar").write_bytes(b"no tar" * 1000)
    recordings = AudioShards(f"{tars}/audio-{{000..003}}.tar", tmp_path / "cache")
    assert numbers(recordings) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert "not an uncompressed tar file" in recordings.faults[f"{tars}/audio-001.tar"]
    assert "is missing" in recordings.faults[f"{tars}/audio-003.tar"]


@pytest.mark.parametrize("form", ["pattern", "url"])
def test_a_shard_that_goes_away_later_is_named_and_the_others_go_on(
    tars: Path, server: str, tmp_path: Path, form: str
) -> None:
    source = f"{tars if form == 'pattern' else server}/audio-{{000..002}}.tar"
    crops = RandomCrops(AudioShards(source, tmp_path / "cache"), SAMPLE_RATE, 1000)
    (tars / "audio-001.tar").unlink()
    for copy in (tmp_path / "cache").glob("*.tar"):
        copy.unlink()
    items = PositionedItems(crops, seed=0)
    drawn = [items[position] for position in range(12)]
    seen = {round(100 * float(tensors["waveform"].mean())) - 1 for _, tensors, _ in drawn}
    assert seen <= {0, 1, 2, 3, 8, 9, 10, 11}
    reasons = {reason for _, _, skipped in drawn for reason in skipped}
    assert len(reasons) == 1
    assert "audio-001.tar" in reasons.pop()


def test_no_shard_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 shards of .* can be used; the first: .*0\.tar is mis"):
        AudioShards(f"{tmp_path}/audio-{{0..1}}.tar", tmp_path / "cache")


def test_an_epoch_visits_everything_once_and_few_remote_shards_at_a_time(tars: Path, tmp_path: Path) -> None:
    recordings = AudioShards(f"pipe:cat {tars}/audio-{{000..002}}.tar", tmp_path / "cache")
    orders = []
    for seed in range(3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards_module, "SHARDS_AT_ONCE", 1)
            order = recordings.order(torch.arange(12), torch.Generator().manual_seed(seed)).tolist()
        assert sorted(order) == list(range(12))
        assert all(len({index // 4 for index in order[start : start + 4]}) == 1 for start in (0, 4, 8))
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]
    mixed = AudioShards(tars, tmp_path / "cache").order(torch.arange(12), torch.Generator().manual_seed(0)).tolist()
    assert len({index // 4 for index in mixed[:4]}) > 1


@pytest.mark.parametrize("num_processes", [1, 3])
def test_processes_share_the_epochs_of_shards_without_loss(tars: Path, tmp_path: Path, num_processes: int) -> None:
    crops = RandomCrops(AudioShards(tars, tmp_path / "cache"), SAMPLE_RATE, 1000)
    seen = []
    for rank in range(num_processes):
        items, positions = PositionedItems(crops, seed=5), iter(Positions(2, rank, num_processes, 0))
        for _ in range(12 // num_processes):
            batch = items.collate([items[position] for position in next(positions)])[1]["waveform"]
            seen += [round(100 * float(crop.mean())) - 1 for crop in batch]
    assert sorted(seen) == sorted(2 * list(range(12)))


def test_old_copies_of_remote_shards_are_deleted(tars: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "NUM_CACHED", 1)
        recordings = AudioShards(f"pipe:cat {tars}/audio-{{000..002}}.tar", tmp_path / "cache")
        assert numbers(recordings) == list(range(12))
        assert len(list((tmp_path / "cache").glob("*.tar"))) == 1


def test_louder_and_mixed_crops_are_a_function_of_the_generator_and_stay_in_range(tmp_path: Path) -> None:
    for number, level in enumerate((0.9, 0.5, 0.1)):
        soundfile.write(tmp_path / f"{number}.wav", (level * tone(300.0 + number, 0.5)[0] / 0.35).numpy(), SAMPLE_RATE)
    plain = RandomCrops(AudioFolder(tmp_path), SAMPLE_RATE, 1000)
    crops = RandomCrops(AudioFolder(tmp_path), SAMPLE_RATE, 1000, gain_db=12.0, mix_probability=0.5)
    levels = []
    for seed in range(40):
        first, again = (crops.draw(2, torch.Generator().manual_seed(seed))["waveform"] for _ in range(2))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert first.abs().max() <= 1
        levels.append(float(first.square().mean().sqrt() / plain.draw(2, torch.Generator())["waveform"].std()))
    assert min(levels) < 0.5
    assert max(levels) > 2
