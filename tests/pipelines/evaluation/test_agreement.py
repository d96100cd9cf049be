"""Agreement with requests: found where it is, gone when the requests are shuffled."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from autoencoder.audio import read_audio
from pipelines.evaluation.agreement import Heard, Request, agreement, clap_table, score_tables
from pipelines.evaluation.generating import finished_pieces
from pipelines.evaluation.musical import (
    INSTRUMENT_TAGS,
    asked_instruments,
    key_score,
    measured_key,
    measured_tempo,
    tempo_agrees,
)
from pipelines.evaluation.novelty import diversity, nearest_distances
from pipelines.evaluation.pieces import hear, read_requests
from tests.conftest import SAMPLE_RATE, tone

DEMO_MUSIC = Path(__file__).parents[3] / "scripts" / "demo_music" / "test"


@pytest.fixture(scope="module")
def real() -> tuple[list[Heard], list[Request]]:
    """The bundled test clips as they are heard, and what they are said to be."""
    requests, records = read_requests(DEMO_MUSIC / "metadata.jsonl")
    heard = [hear(read_audio(DEMO_MUSIC / record["file_name"], SAMPLE_RATE), SAMPLE_RATE) for record in records]
    return heard, requests


@pytest.mark.parametrize("kind", ["tempo, octaves forgiven", "key", "key (weighted)", "instruments (rank)"])
def test_real_clips_agree_with_their_own_captions_more_than_with_others(
    real: tuple[list[Heard], list[Request]], kind: str
) -> None:
    heard, requests = real
    scores = score_tables(heard, requests)[kind]
    own = np.arange(len(heard))
    found = agreement(scores, own, num_replicates=200, seed=0)
    assert found["gain"].value > 0.1
    shuffled = agreement(scores, (own + 1) % len(own), num_replicates=200, seed=0)
    assert shuffled["matched"].value < found["matched"].value
    assert shuffled["gain"].low < 0.1


def test_a_generator_that_ignores_its_request_gains_nothing() -> None:
    requests = [Request("a", tempo=60.0), Request("b", tempo=100.0), Request("c", tempo=170.0)]
    silent = np.zeros(len(INSTRUMENT_TAGS))
    heard = [Heard(100.0, "C major", silent) for _ in requests]
    found = agreement(score_tables(heard, requests)["tempo within 4 %"], np.arange(3), 100, 0)
    assert found["matched"].value == pytest.approx(1 / 3)
    assert found["gain"].value == pytest.approx(0)


def test_tempo_and_key_are_scored_as_in_mirex() -> None:
    assert tempo_agrees(103.9, 100.0, any_octave=False) == 1
    assert tempo_agrees(105.0, 100.0, any_octave=False) == 0
    assert tempo_agrees(201.0, 100.0, any_octave=True) == 1
    assert [key_score(key, "A minor") for key in ("A minor", "E minor", "C major", "A major", "B major", "")] == [
        1.0, 0.5, 0.3, 0.2, 0.0, 0.0,
    ]  # fmt: skip
    assert key_score("A# minor", "Bb minor") == 1.0


def test_a_click_track_has_its_tempo_and_a_chord_its_key() -> None:
    clicks = 0.001 * tone(440, 8.0)
    for beat in range(16):
        start = beat * SAMPLE_RATE // 2
        clicks[:, start : start + 400] += 0.5
    assert measured_tempo(clicks, SAMPLE_RATE) == pytest.approx(120, rel=0.02)
    chord = sum(tone(440 * 2 ** (step / 12), 4.0) for step in (-12, 0, 3, 7))
    assert measured_key(0.1 * chord, SAMPLE_RATE) == "A minor"
    noise = torch.randn(chord.shape, generator=torch.Generator().manual_seed(0))
    assert measured_key(0.1 * chord + 0.3 * noise, SAMPLE_RATE) == "A minor"


def test_no_key_asked_for_is_no_key_to_be_heard() -> None:
    silent = np.zeros(len(INSTRUMENT_TAGS))
    requests = [Request("a", key="none"), Request("b"), Request("c", key="Bb minor")]
    scores = score_tables([Heard(100.0, "A# minor", silent)], requests)
    np.testing.assert_array_equal(scores["key"], [[np.nan, np.nan, 1.0]])


def test_instruments_are_whole_words() -> None:
    assert asked_instruments("Solo harpsichord with drums") == ("drums", "harpsichord")
    assert asked_instruments(["electric piano", "synth strings"]) == ("strings", "piano", "synth")


def test_clap_scores_are_cosines() -> None:
    audio = [np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 2.0]])]
    texts = np.array([[1.0, 0.0], [0.6, 0.8]])
    np.testing.assert_allclose(clap_table(audio, texts), [[1.0, 0.6], [0.0, 0.8]])


def test_copies_are_found_and_equal_pieces_are_not_diverse() -> None:
    generator = np.random.default_rng(0)
    training, piece = [generator.normal(size=(5, 16)) for _ in range(4)], generator.normal(size=(3, 16))
    centre = np.zeros(16)
    copied = np.concatenate([piece, training[2][1:2]])
    assert nearest_distances([copied], training, centre)[0] == pytest.approx(0, abs=1e-9)
    assert nearest_distances([piece], training, centre)[0] > 0.1
    assert diversity([piece, piece], centre) == pytest.approx(0, abs=1e-9)
    assert diversity([piece, -piece], centre) == pytest.approx(2)


def test_bad_prompt_files_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"text": "slow piano"}\n{"text": "loud", "key": "H minor"}\n')
    with pytest.raises(ValueError, match="line 2: expected a line like"):
        read_requests(path)
    path.write_text('{"text": "slow", "instruments": "piano"}\n')
    assert read_requests(path)[0][0].instruments == ("piano",)
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_requests(path)
    path.write_text(json.dumps({"text": "slow", "file_name": "gone.wav"}))
    with pytest.raises(ValueError, match=r"'gone.wav' is no file of"):
        finished_pieces(tmp_path)
