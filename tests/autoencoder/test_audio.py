"""Reading, writing and finding audio."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from autoencoder.audio import find_audio, read_audio, resample, write_audio
from autoencoder.data import RandomCrops
from autoencoder.recordings import AudioFolder
from tests.conftest import SAMPLE_RATE, tone


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    waveform = tone(440.0, 3.0, channels=2)
    write_audio(tmp_path / f"a{suffix}", waveform, SAMPLE_RATE)
    back = read_audio(tmp_path / f"a{suffix}", SAMPLE_RATE)
    assert back.shape == waveform.shape
    tolerance = 0.1 if suffix == ".ogg" else 1e-4
    torch.testing.assert_close(back, waveform, rtol=0, atol=tolerance)


def test_a_part_of_a_file_is_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(440.0, 1.0), SAMPLE_RATE)
    whole = read_audio(tmp_path / "a.wav", SAMPLE_RATE)
    part = read_audio(tmp_path / "a.wav", SAMPLE_RATE, start=100, num_samples=50)
    torch.testing.assert_close(part, whole[:, 100:150], rtol=0, atol=0)


def test_samples_that_would_be_clipped_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reach 1\.500; scale them first"):
        write_audio(tmp_path / "a.wav", torch.full((1, 10), 1.5), SAMPLE_RATE)


def test_another_sample_rate_is_refused_with_the_remedy(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    with pytest.raises(ValueError, match=r"a\.wav is at 8000 Hz .* --sample_rate 44100"):
        read_audio(tmp_path / "a.wav", SAMPLE_RATE)


def test_nan_samples_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(100, np.nan), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav holds NaN"):
        read_audio(tmp_path / "a.wav", SAMPLE_RATE)


def test_a_file_that_is_no_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_text("not audio")
    with pytest.raises(ValueError, match=r"a\.flac cannot be read as audio"):
        read_audio(tmp_path / "a.flac", SAMPLE_RATE)


def test_a_missing_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        find_audio(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="found no audio below"):
        find_audio(tmp_path)


def test_resampling_keeps_the_pitch() -> None:
    low = resample(tone(440.0, 1.0), SAMPLE_RATE, 22_050)
    assert low.shape == (1, 22_050)
    assert low[0].numpy().dtype == np.float32
    spectrum = torch.fft.rfft(low[0]).abs()
    assert spectrum.argmax().item() == 440


def test_crops_are_a_function_of_index_and_generator(music_dir: Path) -> None:
    crops = RandomCrops(AudioFolder(music_dir), SAMPLE_RATE, 1000)
    first, again, other = (crops.draw(1, torch.Generator().manual_seed(k))["waveform"] for k in (1, 1, 2))
    assert first.shape == (1000,)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_files_that_cannot_be_used_are_listed_with_the_reason(music_dir: Path) -> None:
    (music_dir / "train" / "text.flac").write_text("not audio")
    soundfile.write(music_dir / "train" / "slow.wav", np.zeros(9000), 8000)
    soundfile.write(music_dir / "train" / "short.wav", np.zeros(10), SAMPLE_RATE)
    crops = RandomCrops(AudioFolder(music_dir / "train"), SAMPLE_RATE, 1000)
    reasons = {Path(name).name: reason for name, reason in crops.skipped.items()}
    assert len(crops) == 4
    assert "unreadable" in reasons["text.flac"]
    assert "8000 Hz" in reasons["slow.wav"]
    assert reasons["short.wav"] == "too short (10 samples)"


def test_a_silent_file_is_refused_when_drawn(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(5000), SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"silent\.wav: 8 random crops in a row were silent"):
        RandomCrops(AudioFolder(tmp_path), SAMPLE_RATE, 1000).draw(0, torch.Generator())


def test_no_usable_file_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(10), SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"none of the 1 recordings .* too short \(10 samples\)"):
        RandomCrops(AudioFolder(tmp_path), SAMPLE_RATE, 1000)
