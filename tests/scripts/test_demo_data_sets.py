"""Data sets of demo music: plans, splits, runs that are stopped and continued, and the files beside the audio."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from scripts.demo_dataset import effects, patterns, scores
from scripts.demo_dataset.licensing import credits_text, licence_text
from scripts.make_demo_dataset import DemoConfig, assign_splits, main, plan
from tests.scripts.test_make_demo_dataset import DEMO_MUSIC, arrangement, job, soundfont


def test_all_clips_of_a_piece_share_a_split() -> None:
    jobs = [job(f"piece {index // 3}", f"clip {index}") for index in range(60)]
    splits = assign_splits(jobs, 0.25, seed=0)
    by_piece = {j.piece: {s for k, s in zip(jobs, splits, strict=True) if k.piece == j.piece} for j in jobs}
    assert all(len(found) == 1 for found in by_piece.values())
    assert splits.count("test") == 15
    assert assign_splits(jobs, 0.25, seed=0) == splits
    assert set(assign_splits(jobs, 0.0, seed=0)) == {"train"}


def test_jobs_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    jobs = plan(DemoConfig(output_dir=tmp_path, minutes=1))
    assert [j.name for j in pickle.loads(pickle.dumps(jobs))] == [j.name for j in jobs]
    assert len(jobs) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_fraction": 1.0}, r"test_fraction must be from 0 to below 1, got 1\.0"),
        ({"minutes": 0.1}, r"at most the 6 s of the whole data set, got 10\.0"),
        ({"sources": ("grooves",), "styles": ("lofi",)}, r"styles \['lofi'\] only apply to the source 'patterns'"),
        ({"num_workers": 0}, "num_workers must be at least 1, got 0"),
        ({"ogg_quality": 2.0}, r"ogg_quality must be from 0 to 1, got 2\.0"),
        ({"sources": ()}, "sources must name at least one of: patterns"),
        ({"shares": (1.0, 2.0)}, r"shares must be one number above 0 for each of \('patterns',\), got \(1\.0, 2\.0\)"),
        ({"sources": ("tunes",), "clip_seconds": 40.0}, r"last at most 30 s, got 40\.0"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        DemoConfig(**{"output_dir": tmp_path, **change})


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("")
    with pytest.raises(FileExistsError, match="is not empty; delete it or name another folder"):
        main(DemoConfig(output_dir=tmp_path))


def test_the_licence_follows_from_the_sources() -> None:
    assert "CC0-1.0" in licence_text(["patterns"])
    assert "CC-BY-SA-4.0" in licence_text(["patterns", "recordings"])
    assert "MMA" in licence_text(["grooves"])
    row = {"source": "recordings", "credit": "'Nebula' by Somebody", "licence": "CC-BY-3.0"}
    assert "| 'Nebula' by Somebody | CC-BY-3.0 |" in credits_text([row], None)


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[[str, int], Path]:
    def make(name: str, num_workers: int) -> Path:
        config = DemoConfig(
            output_dir=tmp_path / name,
            minutes=0.1,
            clip_seconds=1.0,
            styles=("lofi", "waltz"),
            channels=1,
            soundfont=soundfont(),
            test_fraction=0.34,
            num_workers=num_workers,
        )
        main(config)
        return config.output_dir

    return make


def test_the_data_set_does_not_depend_on_the_number_of_workers(make_set: Callable[[str, int], Path]) -> None:
    one, two = make_set("one", 1), make_set("two", 2)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert len(files) == 6 + 4
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)
    rows = read_rows(one)
    assert len(rows) == 6
    assert sum(path.parent.name == "test" for path, _ in rows) == 2
    assert all(soundfile.info(path).frames == 44_100 for path, _ in rows)


# the bundled set


def read_rows(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Audio file and metadata of each clip."""
    return [
        (folder / split / row["file_name"], row)
        for split in ("train", "test")
        for row in map(json.loads, (folder / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    ]


def test_the_bundled_clips_are_sound_audio() -> None:
    rows = read_rows(DEMO_MUSIC)
    for path, row in rows:
        waveform, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert (sample_rate, waveform.shape) == (44_100, (441_000, 1)), path
        assert row["seconds"] == 10.0
        assert effects.rms(waveform) > 0.05, path
        assert np.abs(waveform).max() < 1.0, path
        loudest_per_second = np.abs(waveform.reshape(10, -1)).max(axis=1)
        assert loudest_per_second.min() > 0.01, path
    assert {path.name for path, _ in rows} == {path.name for path in DEMO_MUSIC.rglob("*.ogg")}


def test_the_bundled_metadata_is_complete_and_distinct() -> None:
    rows = [row for _, row in read_rows(DEMO_MUSIC)]
    assert len(rows) == 48
    assert len({row["text"] for row in rows}) == 48
    assert {row["style"] for row in rows} == set(patterns.STYLES)
    assert all(row["text"] == row["captions"][0] and row["licence"] == "CC0-1.0" for row in rows)


def test_the_bundled_set_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO_MUSIC.rglob("*") if path.is_file()) <= 4_000_000


def quick(output_dir: Path, **changes: Any) -> DemoConfig:
    """Two seconds of music in clips of half a second and a second."""
    settings = {"minutes": 0.05, "clip_seconds": (0.5, 1.0), "channels": 1, "format": "wav", "num_workers": 1}
    return DemoConfig(output_dir=output_dir, **(settings | {"styles": ("waltz",), "test_fraction": 0.25} | changes))


def test_clip_lengths_are_taken_in_turn(tmp_path: Path) -> None:
    main(quick(tmp_path / "set", soundfont=soundfont()))
    lengths = {path.stem: soundfile.info(path).frames for path, _ in read_rows(tmp_path / "set")}
    assert [lengths[f"waltz_{index:05d}"] for index in range(4)] == [22_050, 44_100, 22_050, 44_100]


def test_sources_get_their_shares(tmp_path: Path) -> None:
    scores.write_scores(tmp_path / "scores.xz", {"grooves": [arrangement().to_record()]})
    config = quick(
        tmp_path, minutes=1.0, styles=(), sources=("patterns", "grooves"), shares=(3, 1), scores=tmp_path / "scores.xz"
    )
    assert Counter(job.source for job in plan(config)) == {"patterns": 60, "grooves": 20}


def test_a_run_that_the_time_limit_stops_is_continued_to_the_same_data_set(tmp_path: Path) -> None:
    font = soundfont()
    main(quick(tmp_path / "whole", soundfont=font))
    assert not main(quick(tmp_path / "parts", soundfont=font, max_minutes=1e-9))
    with pytest.raises(ValueError, match=r"with other settings: seed was 0, is 1\. Give the old ones"):
        main(quick(tmp_path / "parts", soundfont=font, seed=1))
    progress = tmp_path / ".parts.partial/progress.jsonl"
    assert len(progress.read_text().split()) > 0
    with progress.open("a") as file:
        file.write('\n{"index": 1, "spl')  # a line that was cut off
    assert main(quick(tmp_path / "parts", soundfont=font))
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "parts") for p in (tmp_path / "parts").rglob("*") if p.is_file())
    assert all((tmp_path / "whole" / path).read_bytes() == (tmp_path / "parts" / path).read_bytes() for path in files)


def test_a_data_set_can_be_completed_with_what_there_is(tmp_path: Path) -> None:
    assert main(quick(tmp_path / "set", soundfont=soundfont(), max_minutes=1e-9, finish_early=True))
    assert len(read_rows(tmp_path / "set")) == 1
