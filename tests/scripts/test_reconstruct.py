"""The command line that codes files."""

from pathlib import Path

import pytest
import soundfile

from autoencoder import Music2LatentAutoencoder
from scripts.reconstruct import ReconstructConfig, files_named, main
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


def test_a_broken_file_is_named_and_costs_nothing_else(codec: Music2LatentAutoencoder, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    broken, whole = tmp_path / "broken.flac", tmp_path / "whole.wav"
    broken.write_bytes(b"no audio at all")
    soundfile.write(whole, tone(300.0, 0.5).T.numpy(), 44_100)
    truncated, of_before = tmp_path / "truncated.flac", tmp_path / "out" / "broken.flac.coded.flac"
    soundfile.write(truncated, tone(300.0, 0.5).T.numpy(), 44_100)
    truncated.write_bytes(truncated.read_bytes()[:-500])
    of_before.parent.mkdir()
    of_before.write_bytes(b"what an earlier run wrote")
    files = [broken, truncated, whole]
    failures = main(ReconstructConfig(files=files, autoencoder=tmp_path / "codec", output_dir=tmp_path / "out"))
    assert [message.split(":")[0] for message in failures] == [str(broken), str(truncated)]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [of_before.name, "whole.wav.coded.flac", "whole.wav.coded.png"]
    assert of_before.read_bytes() == b"what an earlier run wrote"


@pytest.mark.parametrize(
    "words", [["a.wav", "b.wav", "--seed", "1"], ["--seed", "1", "a.wav", "b.wav"], ["a.wav", "--seed=1", "b.wav"]]
)
def test_files_may_stand_anywhere_on_the_command_line(words: list[str]) -> None:
    *options, files = files_named(words)
    assert files == '--files=["a.wav", "b.wav"]'
    assert "=".join(options) == "--seed=1"
