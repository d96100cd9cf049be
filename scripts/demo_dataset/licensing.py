"""The files that say where a data set comes from and what may be done with it: CREDITS.md and LICENSE."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scripts.demo_dataset.synthesis import soundfont_licence

SOURCES = {
    "patterns": "Our own compositions, made by `scripts/make_demo_dataset.py`. CC0-1.0.",
    "grooves": (
        "Accompaniments by MMA (Musical MIDI Accompaniment, https://www.mellowood.ca/mma, GPL-2.0-or-later) over our "
        "own chord progressions."
    ),
    "tunes": (
        "Fiddle tunes in the public domain, as transcribed in the corpus of music21 (https://www.music21.org) from "
        "Ryan's Mammoth Collection (1883), O'Neill's Music of Ireland (1903) and Aird's Airs (1782-1801); our own "
        "accompaniments, CC0-1.0."
    ),
    "recordings": "Recordings from Debian packages; each is listed below with its author and licence.",
}
CC0 = """To the extent possible under law, the authors of music2latent-kit have waived all copyright and related or
neighbouring rights to their part of this data set: compositions, arrangements, captions and metadata.

SPDX-License-Identifier: CC0-1.0
Full text: https://creativecommons.org/publicdomain/zero/1.0/legalcode
"""
SYNTHESIS = """
The audio is synthesised with a soundfont whose licence CREDITS.md states.
"""
GROOVES = """
The clips of the source "grooves" are output of MMA, a program under the GPL-2.0-or-later that contains the groove
patterns they are built from. The licence of MMA does not speak of its output; judge for yourself before you publish.
"""
SHARE_ALIKE = """This data set contains recordings by others under Creative Commons licences; metadata.jsonl and
CREDITS.md state author and licence of each. The recordings were cut, resampled and changed in level. The data set as
a whole is licensed under the Creative Commons Attribution-ShareAlike 4.0 International licence; a part of it that is
under another licence stays under that licence. Models trained on it should be released under CC-BY-SA-4.0 with these
credits.

SPDX-License-Identifier: CC-BY-SA-4.0
Full text: https://creativecommons.org/licenses/by-sa/4.0/legalcode
"""


def licence_text(sources: Iterable[str]) -> str:
    """The statement for a data set of these sources."""
    names = set(sources)
    text = SHARE_ALIKE if "recordings" in names else CC0
    text += SYNTHESIS if names - {"recordings"} else ""
    return text + (GROOVES if "grooves" in names else "")


def credits_text(rows: Sequence[Mapping[str, object]], soundfont: Path | None) -> str:
    """CREDITS.md: sources, soundfont, and each credit with its licence."""
    sources = dict.fromkeys(str(row["source"]) for row in rows)
    lines = ["# Credits", ""]
    lines += [f"- **{source}**: {SOURCES[source]}" for source in sources]
    if soundfont is not None:
        lines += [
            "",
            f"Synthesised by FluidSynth with the soundfont `{soundfont.name}`: {soundfont_licence(soundfont)}.",
        ]
    credits = sorted({(str(row["credit"]), str(row["licence"])) for row in rows if row["source"] != "patterns"})
    if credits:
        lines += ["", "| work | licence |", "|---|---|"]
        lines += [f"| {credit.replace('|', '/')} | {licence} |" for credit, licence in credits]
    return "\n".join(lines) + "\n"
