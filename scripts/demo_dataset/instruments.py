"""General MIDI instruments in the words that captions use.

``GM_NAMES`` is the one owner of the map between program number (0 to 127) and words. Several programs share a word
(three acoustic pianos, eight guitars...), because a listener would call them the same.
"""

from types import MappingProxyType

GM_NAMES = tuple(
    name.strip()
    for family in (
        "piano, piano, piano, honky-tonk piano, electric piano, electric piano, harpsichord, clavinet",
        "celesta, glockenspiel, music box, vibraphone, marimba, xylophone, tubular bells, dulcimer",
        "organ, percussive organ, rock organ, church organ, reed organ, accordion, harmonica, bandoneon",
        "nylon-string guitar, acoustic guitar, jazz guitar, electric guitar, muted guitar, "
        "overdriven guitar, distorted guitar, guitar harmonics",
        "upright bass, electric bass, picked bass, fretless bass, slap bass, slap bass, synth bass, synth bass",
        "violin, viola, cello, double bass, tremolo strings, pizzicato strings, harp, timpani",
        "strings, strings, synth strings, synth strings, choir, voice, synth voice, orchestra hit",
        "trumpet, trombone, tuba, muted trumpet, french horn, brass section, synth brass, synth brass",
        "soprano sax, alto sax, tenor sax, baritone sax, oboe, english horn, bassoon, clarinet",
        "piccolo, flute, recorder, pan flute, blown bottle, shakuhachi, whistle, ocarina",
        "square lead, synth lead, calliope lead, chiff lead, buzzing lead, voice lead, fifths lead, bass lead",
        "bell pad, warm pad, synth pad, choir pad, bowed pad, metallic pad, halo pad, sweep pad",
        "rain effect, soundtrack pad, crystal bells, atmosphere pad, bright pad, goblin pad, echo pad, sci-fi pad",
        "sitar, banjo, shamisen, koto, kalimba, bagpipes, fiddle, shanai",
        "bells, agogo, steel drums, woodblock, taiko drum, tom, synth drum, reverse cymbal",
        "fret noise, breath noise, seashore, bird tweets, telephone, helicopter, applause, gunshot",
    )
    for name in family.split(",")
)
"""One line per family of General MIDI; several programs share a word."""

DRUMS = "drums"
"""The word for a drum kit; its notes are percussion keys (36 is the bass drum), not pitches."""

PROGRAMS = MappingProxyType({name: program for program, name in reversed(list(enumerate(GM_NAMES)))})
"""First General MIDI program of each word."""

DRUM_KITS = MappingProxyType(
    {"standard": 0, "room": 8, "power": 16, "electronic": 24, "808": 25, "jazz": 32, "brush": 40}
)
"""Programs of bank 128 that the usual soundfonts have; fluidsynth falls back to 0 where one is missing."""

KICK, SIDE_STICK, SNARE, CLAP, CLOSED_HAT, PEDAL_HAT, OPEN_HAT = 36, 37, 38, 39, 42, 44, 46
LOW_TOM, MID_TOM, CRASH, RIDE, TAMBOURINE, SHAKER, CLAVES = 45, 47, 49, 51, 54, 70, 75
HIGH_BONGO, HIGH_CONGA, LOW_CONGA = 60, 63, 64
