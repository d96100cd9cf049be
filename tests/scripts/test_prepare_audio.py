"""The way from any collection of audio to clean FLAC in shards or in a folder."""

import ctypes
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from autoencoder.data import RandomCrops
from autoencoder.recordings import AudioFolder, open_recordings, read_recording
from scripts import train_autoencoder
from scripts.prepare_audio import PrepareConfig, flac_name, main
from tests.conftest import SAMPLE_RATE, tone, write_music
from tests.scripts.conftest import codec_config

LONG_NAME = f"ß-音楽-{'very-long-' * 23}.wav"


def set_file_privileges(is_on: bool) -> None:
    """Whether root may read what it has no permission for; others never may."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3 of capabilities(7)
    libc = ctypes.CDLL(None)
    assert libc.capget(header, data) == 0
    both = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    data[0] = data[0] | both if is_on else data[0] & ~both
    assert libc.capset(header, data) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    is_root = os.geteuid() == 0
    if is_root:
        set_file_privileges(False)
    yield tmp_path
    if is_root:
        set_file_privileges(True)


def write_bad_files(folder: Path) -> dict[str, str]:
    """Twelve kinds of bad files and one that is good in spite of its name; what the report must say about each."""
    whole = tone(300.0, 1.5)[0].numpy()
    (folder / "empty.wav").touch()
    soundfile.write(folder / "truncated.wav", whole, SAMPLE_RATE)
    content = (folder / "truncated.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(content[: len(content) - 5000])
    (folder / "text.flac").write_text("not audio")
    soundfile.write(folder / "nan.wav", np.full(SAMPLE_RATE * 2, np.nan), SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "8khz.wav", tone(300.0, 1.5, 8000)[0].numpy(), 8000)
    soundfile.write(folder / "six.wav", tone(300.0, 1.5, channels=6).T.numpy(), SAMPLE_RATE)
    soundfile.write(folder / "silent.wav", np.zeros(2 * SAMPLE_RATE), SAMPLE_RATE)
    soundfile.write(folder / "10ms.wav", whole[:441], SAMPLE_RATE)
    soundfile.write(folder / LONG_NAME, tone(500.0, 1.5)[0].numpy(), SAMPLE_RATE)
    (folder / "dangling.wav").symlink_to(folder / "nowhere.wav")
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "secret.wav", whole, SAMPLE_RATE)
    (folder / "secret.wav").chmod(0)
    soundfile.write(folder / "loud.wav", np.clip(5 * tone(300.0, 1.5)[0].numpy(), -1, 1), SAMPLE_RATE)
    soundfile.write(folder / "again.flac", soundfile.read(folder / "a good one.wav")[0], SAMPLE_RATE)
    return {
        "empty.wav": "unreadable: ",
        "truncated.wav": "truncated: its header promises 132300 bytes of audio, 127300 are there",
        "text.flac": "unreadable: ",
        "nan.wav": "it holds NaN or infinite samples",
        "8khz.wav": "a sample rate of 8000 Hz, at least 16000 Hz are wanted",
        "six.wav": "6 channels, at most 2 are wanted",
        "silent.wav": "silent: ",
        "10ms.wav": "too short: 0.010 s",
        "dangling.wav": "a link to nothing",
        "folder.wav": "a folder, not a file",
        "secret.wav": "unreadable: ",
        "loud.wav": "clipped: ",
        "again.flac": "duplicate: the same samples as a good one.wav",
        "ghost.wav": "named in the metadata, but there is no such file",
    }


def write_collection(folder: Path) -> dict[str, str]:
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "a good one.wav", tone(440.0, 1.5)[0].numpy(), SAMPLE_RATE)
    soundfile.write(folder / "deep" / "dat.ogg", tone(700.0, 1.5, 48_000, channels=2).T.numpy(), 48_000)
    (folder / "deep" / "metadata.csv").write_text('file_name,text,tempo,instruments\ndat.ogg,a tone,,"[""sine""]"\n')
    records = [{"file_name": "a good one.wav", "text": "low", "tempo": 90}, {"file_name": "ghost.wav", "text": "x"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return write_bad_files(folder)


def prepare(folder: Path, **changes) -> dict[str, str]:
    settings = {"input_dir": folder / "in", "output_dir": folder / "out", "num_workers": 0} | changes
    return main(PrepareConfig(**settings))


def test_every_kind_of_bad_file_is_named_with_its_reason_and_the_rest_is_trained_on(folder: Path) -> None:
    expected = write_collection(folder / "in")
    reasons = prepare(folder)
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reasons[name].startswith(reason), name
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["left out"] == reasons
    assert (report["kept"], report["with metadata"], report["resampled from"]) == (3, 2, {"48000": 1})

    music = write_music(folder / "music")
    config = codec_config(music, folder / "codec", data_dir=folder / "out", num_workers=2)
    assert train_autoencoder.main(config)


def test_a_folder_of_bad_files_is_trained_on_directly(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_collection(folder / "in")
    music = write_music(folder / "music")
    assert train_autoencoder.main(codec_config(music, folder / "codec", data_dir=folder / "in", max_steps=6))
    captured = capsys.readouterr()
    unusable = ("empty", "text", "8khz", "10ms", "dangling", "folder", "secret")
    for name in unusable:
        assert f"/{name}." in captured.out
    assert "silent.wav: 8 random crops in a row were silent" in captured.err
    assert "nan.wav holds NaN" in captured.err


def test_shards_hold_the_samples_and_the_facts(folder: Path) -> None:
    write_collection(folder / "in")
    prepare(folder, files_per_shard=2)
    shards = open_recordings(folder / "out", folder / "cache")
    assert len(shards) == 3
    assert not (folder / "cache").exists()  # the index lies beside the shards
    by_name = {shards.facts(index)["file_name"]: index for index in range(3)}
    assert set(by_name) == {"a good one.wav", "deep/dat.ogg", LONG_NAME}
    facts = shards.facts(by_name["deep/dat.ogg"])
    assert facts == {"file_name": "deep/dat.ogg", "text": "a tone", "instruments": ["sine"], "seconds": 1.5}
    index = by_name["a good one.wav"]
    original = soundfile.read(folder / "in" / "a good one.wav", dtype="float32")[0]
    part = read_recording(shards, index, SAMPLE_RATE, 1000, 500)
    torch.testing.assert_close(part[0].numpy(), original[1000:1500], rtol=0, atol=2e-4)
    assert read_recording(shards, by_name["deep/dat.ogg"], SAMPLE_RATE).shape == (2, 66_150)


def test_a_preparation_that_was_stopped_continues(folder: Path) -> None:
    write_collection(folder / "in")
    prepare(folder, files_per_shard=1)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.tar")}
    contents = {path.name: path.read_bytes() for path in (folder / "out").glob("*.tar")}
    for path in (folder / "out").glob("audio-00001.*"):
        path.unlink()
    (folder / "out" / "audio-00001.partial").write_bytes(b"half of it")
    with (folder / "out" / "inspections.jsonl").open("a") as journal:
        journal.write('{"name": "a go')
    reasons = prepare(folder, files_per_shard=1, num_workers=2)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.tar")}
    assert {name for name in after if after[name] != before[name]} == {"audio-00001.tar"}
    assert {path.name: path.read_bytes() for path in (folder / "out").glob("*.tar")} == contents
    assert "empty.wav" in reasons


def test_shards_of_other_files_are_not_mixed_up(folder: Path) -> None:
    write_collection(folder / "in")
    prepare(folder)
    soundfile.write(folder / "in" / "new.wav", tone(900.0, 1.5)[0].numpy(), SAMPLE_RATE)
    with pytest.raises(ValueError, match="shards that were begun with other files, metadata or settings; give"):
        prepare(folder)


def test_a_folder_keeps_the_names_and_the_metadata(folder: Path) -> None:
    write_collection(folder / "in")
    prepare(folder, layout="folder")
    prepared = AudioFolder(folder / "out")
    assert set(prepared.names) == {"a good one.flac", "deep/dat.flac", flac_name(LONG_NAME)}
    facts = prepared.facts(prepared.names.index("deep/dat.flac"))
    assert facts == {"file_name": "deep/dat.flac", "text": "a tone", "instruments": ["sine"]}
    info = soundfile.info(folder / "out" / "deep" / "dat.flac")
    assert (info.samplerate, info.channels, info.frames) == (SAMPLE_RATE, 2, 66_150)
    assert len(RandomCrops(prepared, SAMPLE_RATE, 1000)) == 3


def test_files_that_would_get_the_same_name_in_a_folder_are_refused(folder: Path) -> None:
    write_collection(folder / "in")
    soundfile.write(folder / "in" / "a good one.ogg", tone(450.0, 1.5).T.numpy(), SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"several files would become \['a good one\.flac'\]"):
        prepare(folder, layout="folder")


def test_other_formats_are_read_with_the_extra(folder: Path) -> None:
    av = pytest.importorskip("av")
    (folder / "in").mkdir()
    samples = tone(440.0, 1.5, 48_000, channels=2).numpy()
    with av.open(str(folder / "in" / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert prepare(folder) == {}
    shards = open_recordings(folder / "out", folder / "cache")
    back = read_recording(shards, 0, SAMPLE_RATE)
    assert back.shape[0] == 2
    assert abs(back.shape[1] - 66_150) < 2048  # the format adds some padding
    spectrum = torch.fft.rfft(back[0, :SAMPLE_RATE]).abs()
    assert int(spectrum.argmax()) == 440


def test_nothing_usable_is_an_error(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "text.flac").write_text("not audio")
    with pytest.raises(ValueError, match="none of the 1 files"):
        prepare(folder)
