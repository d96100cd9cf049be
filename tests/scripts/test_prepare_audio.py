"""The way from any folder of audio to clean FLAC."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from scripts.prepare_audio import PrepareConfig, main
from tests.conftest import tone


@pytest.fixture
def mixed_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "cd.wav", tone(440.0, 1.5).T.numpy(), 44_100)
    soundfile.write(folder / "deep" / "dat.ogg", tone(440.0, 1.5, 48_000, channels=2).T.numpy(), 48_000)
    soundfile.write(folder / "short.wav", tone(440.0, 0.01).T.numpy(), 44_100)
    soundfile.write(folder / "silent.wav", np.zeros(60_000), 44_100)
    soundfile.write(folder / "nan.wav", np.full(60_000, np.nan), 44_100, subtype="FLOAT")
    (folder / "text.flac").write_text("not audio")
    records = [{"file_name": "deep/dat.ogg", "text": "a tone"}, {"file_name": "silent.wav", "text": "nothing"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_usable_files_become_flac_and_the_others_are_listed(mixed_dir: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    skipped = main(PrepareConfig(input_dir=mixed_dir, output_dir=output_dir, num_workers=1))
    assert {path.relative_to(output_dir).as_posix() for path in output_dir.rglob("*.flac")} == {
        "cd.flac",
        "deep/dat.flac",
    }
    info = soundfile.info(output_dir / "deep" / "dat.flac")
    assert (info.samplerate, info.channels, info.frames) == (44_100, 2, 66_150)
    assert set(skipped) == {"short.wav", "silent.wav", "nan.wav", "text.flac"}
    assert skipped["short.wav"].startswith("too short: 0.010 s")
    assert skipped["silent.wav"] == "silent"
    assert "NaN" in skipped["nan.wav"]
    assert skipped["text.flac"].startswith("unreadable")
    assert json.loads((output_dir / "skipped.json").read_text()) == skipped


def test_captions_are_carried_over_under_the_new_names(mixed_dir: Path, tmp_path: Path) -> None:
    main(PrepareConfig(input_dir=mixed_dir, output_dir=tmp_path / "out", num_workers=1))
    lines = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"file_name": "deep/dat.flac", "text": "a tone"}]


def test_files_that_would_get_the_same_name_are_refused(mixed_dir: Path, tmp_path: Path) -> None:
    soundfile.write(mixed_dir / "cd.ogg", tone(440.0, 1.5).T.numpy(), 44_100)
    with pytest.raises(ValueError, match=r"several files would become \['cd\.flac'\]"):
        main(PrepareConfig(input_dir=mixed_dir, output_dir=tmp_path / "out", num_workers=1))


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.flac").write_text("not audio")
    with pytest.raises(ValueError, match="none of the 1 files"):
        main(PrepareConfig(input_dir=tmp_path / "in", output_dir=tmp_path / "out", num_workers=1))
