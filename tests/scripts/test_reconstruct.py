"""The command line that codes files."""

from pathlib import Path

import pytest
import soundfile

from autoencoder import Music2LatentAutoencoder
from scripts.reconstruct import ReconstructConfig, main
from tests.conftest import tone


def test_files_come_back_with_their_rate_channels_and_length(codec: Music2LatentAutoencoder, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    for name, rate, channels in (("a.wav", 8_000, 2), ("a.flac", codec.config.sample_rate, 1)):
        soundfile.write(tmp_path / name, tone(300.0, 0.2, channels=channels).T.numpy(), rate)
    before = (tmp_path / "a.flac").read_bytes()
    files = [tmp_path / "a.wav", tmp_path / "a.flac"]
    main(ReconstructConfig(files=files, autoencoder=tmp_path / "codec", output_dir=tmp_path))
    assert (tmp_path / "a.flac").read_bytes() == before  # the folder of the originals may be that of the results
    for path in files:
        original, coded = soundfile.info(path), soundfile.info(tmp_path / f"{path.name}.coded.flac")
        for name in ("samplerate", "channels", "frames"):
            assert getattr(coded, name) == getattr(original, name)
        assert (tmp_path / f"{path.name}.coded.png").is_file()


def test_what_cannot_be_coded_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    soundfile.write(tmp_path / "a.wav", tone(300.0, 0.1).T.numpy(), 8000)
    for files, message in (
        ([tmp_path / "b.wav"], r"no file .*b\.wav"),
        ([tmp_path / "a.txt"], r"expected audio files .*a\.txt is none"),
        ([], "give at least one"),
        ([tmp_path / "a.wav"] * 2, r"'a\.wav'\] came more than once"),
    ):
        with pytest.raises(ValueError, match=message):
            ReconstructConfig(files=files)
