"""Composition, captions and the data set format; rendering only where FluidSynth and a soundfont are installed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scripts.demo_dataset import effects, grooves, measuring, parts, patterns, recordings, scores, synthesis, tunes
from scripts.demo_dataset.captions import captions
from scripts.demo_dataset.instruments import DRUMS, GM_NAMES, PROGRAMS
from scripts.demo_dataset.midi import MidiChannel, MidiFile, read_midi
from scripts.demo_dataset.pieces import Facts, Job, Note, Performance, Piece, Studio, Track, UnusableClipError
from scripts.demo_dataset.production import write_audio
from scripts.demo_dataset.theory import TONICS, Key, build_chord, voicing

SECONDS = 10.0
DEMO_MUSIC = Path(__file__).resolve().parents[2] / "scripts" / "demo_music"
FACTS = Facts(
    style="lofi",
    instruments=("piano", "upright bass", DRUMS),
    tempo=82.0,
    key="A minor",
    mode="minor",
    metre="4/4",
    moods=("mellow", "dusty"),
    effects=("vinyl crackle",),
    has_drums=True,
)


def soundfont() -> Path:
    """The smallest installed soundfont; skips the test where rendering is impossible."""
    try:
        synthesis.load_fluidsynth()
    except ImportError as error:
        pytest.skip(str(error))
    installed = [path for path in synthesis.SOUNDFONTS.values() if path.is_file()]
    if not installed:
        pytest.skip("no soundfont is installed")
    return min(installed, key=lambda path: path.stat().st_size)


def job(piece: str, name: str = "") -> Job:
    return Job(name=name or piece, piece=piece, source="patterns", licence="", credit="", perform=silence)


def silence(studio: Studio) -> Performance:
    return Performance(np.zeros((studio.num_samples, studio.channels), np.float32), FACTS)


# theory


@pytest.mark.parametrize("tonic", TONICS)
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_a_key_is_read_back_from_its_name(tonic: str, mode: str) -> None:
    assert str(Key.parse(f"{tonic} {mode}")) == f"{tonic} {mode}"


def test_flat_keys_become_sharp_ones() -> None:
    assert str(Key.parse("Bb minor")) == "A# minor"
    with pytest.raises(ValueError, match="expected a key such as 'F# minor' or 'Bb major', got 'H minor'"):
        Key.parse("H minor")


def test_chords_on_diatonic_numerals_stay_in_the_key() -> None:
    for mode, numerals in (("major", "I ii iii IV V vi"), ("minor", "i III iv v VI VII")):
        key = Key(6, mode)
        for numeral in numerals.split():
            assert set(build_chord(key, numeral, 5).pitch_classes) <= key.pitch_classes


def test_an_upper_case_dominant_in_minor_has_the_leading_tone() -> None:
    key = Key.parse("A minor")
    assert 8 in build_chord(key, "V", 3).pitch_classes
    assert 8 not in build_chord(key, "v", 3).pitch_classes
    with pytest.raises(ValueError, match="Roman numeral from I to VII in either case, got 'X'"):
        build_chord(key, "X")


def test_voices_move_less_than_the_roots() -> None:
    key = Key.parse("C major")
    first = voicing(build_chord(key, "I", 3), (), 52)
    second = voicing(build_chord(key, "V", 3), first, 52)
    assert {pitch % 12 for pitch in second} == {7, 11, 2}
    assert max(min(abs(pitch - old) for old in first) for pitch in second) <= 2


# composition


@pytest.mark.parametrize("style", patterns.STYLES)
@pytest.mark.parametrize("seed", range(4))
def test_every_style_plays_its_stated_instruments_throughout_the_clip(style: str, seed: int) -> None:
    piece = patterns.compose(style, (3, seed), SECONDS)
    end = piece.start + piece.beats(SECONDS)
    notes = [note for track in piece.tracks for note in track.notes]
    assert piece.facts.style == style
    assert piece.facts.instruments == tuple(dict.fromkeys(track.instrument for track in piece.tracks))
    assert piece.facts.has_drums == (DRUMS in piece.facts.instruments)
    assert all(piece.start < note.onset + note.duration and note.onset < end for note in notes)
    assert max(note.onset for note in notes) > end - 1.1 * piece.beats(60 / piece.tempo) * 8
    assert all(0 <= note.pitch < 128 and 0 < note.velocity < 128 and note.duration > 0 for note in notes)


@pytest.mark.parametrize("style", patterns.STYLES)
def test_the_first_bar_line_is_where_it_is_said_to_be(style: str) -> None:
    piece = patterns.compose(style, (2, 0), SECONDS)
    assert piece.facts.first_beat is not None
    assert piece.facts.metre is not None
    beats = piece.start + piece.beats(piece.facts.first_beat)
    assert beats / int(piece.facts.metre.split("/")[0]) == pytest.approx(1.0)  # after a bar of lead-in


@pytest.mark.parametrize("style", patterns.STYLES)
def test_melodies_and_chords_are_in_the_stated_key(style: str) -> None:
    inside = total = 0
    for seed in range(6):
        piece = patterns.compose(style, (seed, 1), SECONDS)
        assert piece.facts.key is not None
        assert piece.facts.key.endswith(str(piece.facts.mode))
        classes = Key.parse(piece.facts.key).pitch_classes
        pitches = [note.pitch for track in piece.tracks if not track.is_drums for note in track.notes]
        inside += sum(pitch % 12 in classes for pitch in pitches)
        total += len(pitches)
    assert inside / total > 0.9  # the rest are leading tones and borrowed chords


def test_the_same_seed_gives_the_same_piece_and_another_seed_another() -> None:
    assert patterns.compose("lofi", (0, 1), SECONDS) == patterns.compose("lofi", (0, 1), SECONDS)
    assert patterns.compose("lofi", (0, 1), SECONDS) != patterns.compose("lofi", (0, 2), SECONDS)


def test_seeds_vary_key_tempo_and_lead() -> None:
    facts = [patterns.compose("lofi", (0, seed), SECONDS).facts for seed in range(30)]
    assert len({fact.key for fact in facts}) > 10
    assert len({fact.tempo for fact in facts}) > 10
    assert len({fact.instruments[0] for fact in facts}) > 4


def test_swing_delays_every_second_step_only() -> None:
    song = parts.draw_song(np.random.default_rng(0), SECONDS, (80, 80), {"minor": ["i"]})
    notes = [Note(step / 4, 0.2, 42, 90) for step in range(4)]
    played = parts.humanise(song, notes, swing=1 / 3, timing=0.0)
    assert [note.onset for note in played] == pytest.approx([0, 1 / 3, 0.5, 0.5 + 1 / 3])


def test_unknown_styles_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown styles \['polka'\]; expected some of: lofi, solo piano"):
        patterns.plan(4, ["polka"], 0)


def test_lofi_is_a_quarter_of_all_styles() -> None:
    jobs = patterns.plan(45, [], 0)
    assert sum(job.name.startswith("lofi") for job in jobs) == 12
    assert len({job.name for job in jobs}) == 45


def test_instrument_words_cover_general_midi() -> None:
    assert len(GM_NAMES) == 128
    assert PROGRAMS["piano"] == 0
    assert GM_NAMES[PROGRAMS["vibraphone"]] == "vibraphone"
    assert GM_NAMES[127] == "gunshot"


def test_a_piece_forgets_instruments_that_are_not_heard() -> None:
    late = Track(instrument="flute", notes=(Note(99, 1, 72, 90),))
    heard = Track(instrument="piano", notes=(Note(0, 1, 60, 90),))
    facts = replace(FACTS, instruments=("flute", "piano"))
    assert Piece(facts=facts, tracks=(late, heard)).audible(SECONDS).facts.instruments == ("piano",)


# captions


def test_the_four_captions_of_a_clip_differ() -> None:
    for seed in range(50):
        texts = captions(FACTS, np.random.default_rng(seed))
        assert len(set(texts)) == 4
        assert all(text and "  " not in text and " ," not in text for text in texts)


def test_each_fact_is_sometimes_told_and_sometimes_left_out() -> None:
    texts = [text for seed in range(50) for text in captions(FACTS, np.random.default_rng(seed))]
    for fact in ("piano", "bass", "82", "A minor", "mellow", "dusty", "crackl"):
        share = sum(fact in text for text in texts) / len(texts)
        assert 0.05 < share < 0.95, fact


def test_captions_say_nothing_of_unknown_facts() -> None:
    facts = Facts(style="space ambient", moods=("calm",))
    for seed in range(20):
        for text in captions(facts, np.random.default_rng(seed)):
            assert not any(word in text for word in ("None", "bpm", "BPM", "minor", "drums"))


def test_solo_piano_is_not_said_to_feature_a_piano() -> None:
    facts = replace(FACTS, style="solo piano", instruments=("piano",), has_drums=False, effects=())
    texts = [text for seed in range(20) for text in captions(facts, np.random.default_rng(seed))]
    assert all(text.lower().count("piano") == 1 for text in texts)


# effects and synthesis


def test_normalising_scales_and_never_clips() -> None:
    rng = np.random.default_rng(0)
    quiet = (0.01 * rng.normal(size=(5000, 2))).astype(np.float32)
    assert effects.rms(effects.normalise(quiet)) == pytest.approx(effects.TARGET_RMS, rel=1e-4)
    spiky = quiet.copy()
    spiky[100] = 1.0
    levelled = effects.normalise(spiky)
    assert np.abs(levelled).max() == pytest.approx(effects.MAX_PEAK)
    np.testing.assert_allclose(levelled / spiky, effects.MAX_PEAK, rtol=1e-4)
    with pytest.raises(ValueError, match="it is silent"):
        effects.normalise(np.zeros((100, 1), np.float32))


@pytest.mark.parametrize("name", effects.EFFECTS)
def test_effects_keep_the_shape_and_are_repeatable(name: str) -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, (22_050, 2)).astype(np.float32)
    first = effects.apply(waveform, [name], 22_050, seed=1)
    assert first.shape == waveform.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, effects.apply(waveform, [name], 22_050, seed=1))


def test_a_note_struck_again_is_not_ended_by_the_release_of_the_first_stroke() -> None:
    track = Track(instrument="piano", notes=(Note(0, 2, 60, 90), Note(1, 1, 60, 80)))
    events = synthesis._events([track], 0.0, 60.0, 100)
    assert [(event.sample, event.velocity) for event in events] == [(0, 90), (100, 0), (100, 80), (200, 0)]


def test_a_missing_soundfont_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.sf2 does not exist"):
        synthesis.find_soundfont(tmp_path / "none.sf2")
    monkeypatch.setattr(synthesis, "SOUNDFONTS", {"some-soundfont": tmp_path / "some.sf2"})
    with pytest.raises(FileNotFoundError, match="apt-get install some-soundfont"):
        synthesis.find_soundfont()


def test_rendering_does_not_depend_on_what_was_rendered_before() -> None:
    studio = Studio(1.0, 2, 44_100, soundfont())
    first = patterns.perform("house", (0, 0), studio).waveform
    patterns.perform("ambient", (0, 0), studio)
    np.testing.assert_array_equal(patterns.perform("house", (0, 0), studio).waveform, first)
    assert first.shape == (44_100, 2)
    assert 0.02 < effects.rms(first) < 0.2


# other sources


def midi_bytes(events: bytes) -> bytes:
    """A format 0 file with 480 ticks to the quarter."""
    return b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + len(events).to_bytes(4) + events


def test_midi_notes_programs_and_metre_are_read() -> None:
    events = bytes.fromhex("00ff58040602 1808 00c019 00903c64 83603e50 8360803c00 003e00 00ff2f00".replace(" ", ""))
    midi = read_midi(midi_bytes(events))
    assert midi.metre == (6, 4)
    assert midi.channels[0].program == 25
    assert midi.channels[0].notes == [Note(0.0, 2.0, 60, 100), Note(1.0, 1.0, 62, 80)]
    with pytest.raises(ValueError, match="starts with b'MThd', got b'RIFF'"):
        read_midi(b"RIFF....")


@pytest.mark.parametrize(
    ("name", "words"),
    [("BossaNova1Sus", "bossa nova"), ("50sRock", "50s rock"), ("8BeatPlus", "8 beat"), ("DixieMarch", "dixie march")],
)
def test_groove_names_become_words(name: str, words: str) -> None:
    assert grooves.style_words(name) == words


def test_missing_programs_and_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install mma"):
        grooves.find_grooves()
    with pytest.raises(FileNotFoundError, match="apt-get install ufoai-music singularity-music"):
        recordings.find_recordings(["singularity-music", "ufoai-music"], root=tmp_path)
    with pytest.raises(ValueError, match=r"unknown packages \['nexuiz-music'\]"):
        recordings.find_recordings(["nexuiz-music"])


@pytest.mark.skipif(shutil.which("mma") is None, reason="the program mma is not installed")
def test_a_groove_is_repeatable_and_has_notes() -> None:
    arrangement = grooves.arrangements()[0]
    piece = grooves.compose(arrangement, (0, 1), SECONDS)
    assert piece == grooves.compose(arrangement, (0, 1), SECONDS)
    assert sum(len(track.notes) for track in piece.tracks) > 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("D", ("D major", "major")),
        ("Am", ("A minor", "minor")),
        ("Ador", ("A minor", "dorian")),
        ("Bb", ("A# major", "major")),
        ("A Mixolydian", ("A major", "mixolydian")),
        ("Hp", None),
    ],
)
def test_abc_keys_are_read(text: str, expected: tuple[str, str] | None) -> None:
    assert tunes.read_key(text) == expected


def test_a_tune_is_looped_to_fill_the_clip() -> None:
    pytest.importorskip("music21", reason="music21 is not installed")
    abc = "X:1\nT:Test\nM:6/8\nL:1/8\nR:jig\nK:D\nDFA dAF|GBd gdB|A2A ABc|d3 d3|\n"
    piece = tunes.compose(tunes.Tune("Test", "Ryan's Mammoth", abc), (0,), SECONDS)
    assert piece.facts.key == "D major"
    assert piece.facts.style == "jig"
    assert max(note.onset for note in piece.tracks[0].notes) >= piece.beats(SECONDS) - 2


def test_notes_survive_a_file_of_scores(tmp_path: Path) -> None:
    notes = (Note(0.0, 1.0, 60, 90), Note(1 / 3, 0.5, 64, 80), Note(1 / 3, 0.5, 67, 70), Note(2.0, 0.25, 48, 100))
    scores.write_scores(tmp_path / "scores.xz", {"tunes": [{"notes": scores.pack_notes(notes)}]})
    (record,) = scores.read_scores(tmp_path / "scores.xz", "tunes")
    assert scores.unpack_notes(record["notes"]) == notes
    with pytest.raises(ValueError, match="holds no grooves, only tunes"):
        scores.read_scores(tmp_path / "scores.xz", "grooves")
    (tmp_path / "broken.xz").write_bytes(b"no xz")
    with pytest.raises(ValueError, match="is not a file of scores"):
        scores.read_scores(tmp_path / "broken.xz", "tunes")


def arrangement() -> grooves.Arrangement:
    drums = MidiChannel(program=0, notes=[Note(float(beat), 0.5, 36, 100) for beat in range(80)])
    piano = MidiChannel(program=0, notes=[Note(float(beat), 1.0, 60 + beat % 5, 80) for beat in range(80)])
    groove = grooves.Groove("SlowRock", "slow rock", "Slow rock with piano.")
    return grooves.Arrangement(groove, 1, MidiFile({0: piano, 9: drums}, (4, 4)))


def test_an_arrangement_is_played_in_every_key_and_its_drums_in_none(tmp_path: Path) -> None:
    scores.write_scores(tmp_path / "scores.xz", {"grooves": [arrangement().to_record()]})
    (read,) = grooves.arrangements(tmp_path / "scores.xz")
    pieces = [grooves.compose(read, (0, seed), SECONDS) for seed in range(40)]
    assert pieces == [grooves.compose(arrangement(), (0, seed), SECONDS) for seed in range(40)]
    assert len({piece.facts.key for piece in pieces}) == 12
    assert all(str(piece.facts.key).endswith("minor") for piece in pieces)
    for piece in pieces:
        by_name = {track.instrument: track for track in piece.tracks}
        lowest = min(note.pitch for note in by_name["piano"].notes)
        assert (lowest - 60) % 12 == Key.parse(str(piece.facts.key)).tonic
        assert {note.pitch for note in by_name[DRUMS].notes} == {36}


def test_a_tune_from_a_file_of_scores_is_the_tune_itself(tmp_path: Path) -> None:
    notes = tuple(Note(float(beat), 1.0, 62 + beat % 7, 88) for beat in range(32))
    tune = tunes.Tune("Test", "Ryan's Mammoth", "X:1\nT:Test\nM:6/8\nR:jig\nK:D\n", notes)
    scores.write_scores(tmp_path / "scores.xz", {"tunes": [tune.to_record()]})
    (planned,) = tunes.plan(1, 0, tmp_path / "scores.xz")
    assert planned.piece == "tune_test"
    read = tunes.Tune.from_record(tune.to_record())
    assert tunes.compose(read, (0,), SECONDS) == tunes.compose(tune, (0,), SECONDS)
    assert read.quarters_per_beat == 1.5


@pytest.mark.parametrize(("root", "mode"), [(0, "major"), (9, "minor"), (6, "major")])
def test_the_key_of_a_scale_with_a_strong_triad_is_heard(root: int, mode: str) -> None:
    key = Key(root, mode)
    chroma = np.array([0.4 if pitch in key.pitch_classes else 0.05 for pitch in range(12)])
    for pitch in build_chord(key, "I" if mode == "major" else "i", 3).pitch_classes:
        chroma[pitch] = 1.0
    assert measuring.nearest_key(chroma) == str(key)


def test_a_steady_beat_on_one_chord_is_measured() -> None:
    pytest.importorskip("librosa", reason="librosa is not installed")
    rate, seconds, tempo = 22_050, 12.0, 120.0
    places = np.arange(int(rate * seconds)) / rate
    envelope = np.exp(-8 * (places % (60 / tempo)))
    chord = sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * places) for pitch in (57, 60, 64, 69))
    measured = measuring.measure((0.2 * envelope * chord)[:, None].astype(np.float32), rate)
    assert measured.tempo == pytest.approx(tempo, rel=0.04)
    assert measured.key == "A minor"


def test_the_manifest_has_only_free_licences_and_an_author_for_each_attribution() -> None:
    manifest = json.loads(recordings.MANIFEST.read_text())
    for track in manifest["tracks"]:
        assert track["licence"].startswith("CC") or track["licence"] == "public domain"
        assert "GPL" not in track["licence"]
        assert track["author"] or not track["licence"].startswith("CC-BY")
        assert "_fast" not in track["path"]
        assert track["package"] in manifest["packages"]


def test_a_recording_is_resampled_and_mixed_as_asked(tmp_path: Path) -> None:
    track = next(t for t in json.loads(recordings.MANIFEST.read_text())["tracks"] if t["path"].endswith(".ogg"))
    path = tmp_path / track["path"]
    path.parent.mkdir(parents=True)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(24_000 * 2) / 24_000).astype(np.float32)
    write_audio(path, tone[:, None], 24_000, 0.5)
    clip = recordings.read_clip(recordings.Recording(**track), 0.5, Studio(1.0, 2, 44_100, None), tmp_path)
    assert clip.shape == (44_100, 2)
    assert np.argmax(np.abs(np.fft.rfft(clip[:, 0]))) == 1000
    with pytest.raises(UnusableClipError, match=r"has 2\.0 s, but the clip ends at 3\.5 s"):
        recordings.read_clip(recordings.Recording(**track), 2.5, Studio(1.0, 1, 44_100, None), tmp_path)
