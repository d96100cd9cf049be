"""English captions from facts: four wordings of different build, with facts left out at random.

The four builds are a telegram ("lofi piano beat, 82 bpm"), a mood-first phrase, an instrument-first sentence and
full prose. A model trained on them meets short prompts and long ones, and learns that no fact is obligatory.
"""

from collections.abc import Sequence

import numpy as np

from scripts.demo_dataset.instruments import DRUMS
from scripts.demo_dataset.pieces import Facts

STYLE_WORDS = {
    "lofi": ("lofi", "lo-fi hip hop", "lofi hip hop", "chillhop"),
    "solo piano": ("solo piano", "piano solo", "unaccompanied piano"),
    "drum and bass": ("drum and bass", "drum & bass", "dnb"),
    "bossa nova": ("bossa nova", "Brazilian bossa", "bossa"),
    "cinematic": ("cinematic", "film score", "orchestral soundtrack"),
    "ambient": ("ambient", "ambient soundscape", "drone-like ambient", "new age ambient"),
    "house": ("house", "deep house", "club house"),
    "techno": ("techno", "warehouse techno", "minimal techno"),
}
"""Other names of a style; the style itself where not listed."""
DANCES = ("waltz", "air", "reel", "jig", "hornpipe", "march", "strathspey")
SELF_SUFFICIENT = (*DANCES, "solo", "soundscape", "soundtrack", "score", "tune", "music")
"""Last words after which no "track" or "piece" is needed."""
NOUNS = ("track", "piece", "tune", "instrumental", "music")
BEAT_NOUNS = ("beat", "groove", "track", "loop")
EFFECT_WORDS = {
    "vinyl crackle": ("with vinyl crackle", "dusty record noise", "crackling vinyl"),
    "tape wow": ("warbly tape", "worn cassette sound", "tape wobble"),
    "low-pass filter": ("muffled highs", "soft, filtered highs"),
    "tape saturation": ("warm tape saturation", "saturated and warm"),
}


def tempo_word(tempo: float) -> str:
    """Slow, mid-tempo or fast."""
    return "slow" if tempo < 85 else "mid-tempo" if tempo < 118 else "fast"


def capital(text: str) -> str:
    """The text with its first letter in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def join(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"


def article(phrase: str) -> str:
    """The phrase with ``a`` or ``an``."""
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


class Wording:
    """Draws words for the facts of one clip; a fact that is unknown or left out gives an empty string or list."""

    def __init__(self, facts: Facts, rng: np.random.Generator, keep: float) -> None:
        """``keep`` is the chance that a fact is mentioned."""
        self.facts = facts
        self.rng = rng
        self.keep = keep

    def kept(self) -> bool:
        return bool(self.rng.random() < self.keep)

    def choose(self, options: Sequence[str]) -> str:
        return str(options[int(self.rng.integers(len(options)))])

    def style(self) -> str:
        return self.choose(STYLE_WORDS.get(self.facts.style, (self.facts.style,)))

    def noun(self) -> str:
        return self.choose(BEAT_NOUNS if self.facts.has_drums and self.rng.random() < 0.5 else NOUNS)

    def moods(self) -> list[str]:
        """One or two moods; never left out where hardly anything else is known, as of recordings."""
        moods = [str(mood) for mood in self.rng.permutation(list(self.facts.moods))]
        kept = self.kept() or self.facts.tempo is None
        return moods[: int(self.rng.integers(1, 3))] if kept else []

    def described(self, moods: Sequence[str] = (), with_noun: bool = True) -> str:
        """Moods, style and (where the style is not a noun itself) a noun."""
        style = self.style()
        noun = self.noun() if with_noun and style.split()[-1] not in SELF_SUFFICIENT else ""
        return " ".join(word for word in (", ".join(moods), style, noun) if word)

    def lead(self) -> str:
        """The first pitched instrument; none for solo piano, whose style says it."""
        pitched = [name for name in self.facts.instruments if name != DRUMS]
        return pitched[0] if pitched and self.facts.style != "solo piano" else ""

    def backing(self) -> list[str]:
        """All instruments but the lead, some of them left out."""
        if self.facts.style == "solo piano":
            return []
        return [name for name in self.facts.instruments if name != self.lead() and self.kept()]

    def tempo(self) -> str:
        if self.facts.tempo is None or not self.kept():
            return ""
        number = f"{self.facts.tempo:.0f}"
        return self.choose((f"{number} bpm", f"{number} BPM", f"{tempo_word(self.facts.tempo)}, {number} bpm"))

    def key(self) -> str:
        return self.facts.key if self.facts.key is not None and self.kept() else ""

    def extra(self) -> list[str]:
        """Metre (where not 4/4), church mode, effects and title, each seldom enough not to become a habit."""
        words = []
        if self.facts.metre not in (None, "4/4") and self.kept():
            words.append(f"{self.facts.metre} time")
        if self.facts.mode not in (None, "major", "minor") and self.kept():
            words.append(f"{self.facts.mode} mode")
        effects = [name for name in self.facts.effects if name in EFFECT_WORDS]
        if effects and self.kept():
            words.append(self.choose(EFFECT_WORDS[self.choose(effects)]))
        if self.facts.has_drums is False and self.facts.style != "solo piano" and self.rng.random() < 0.2:
            words.append(self.choose(("no drums", "without drums")))
        if self.facts.title and self.kept():
            words.append(f'"{self.facts.title}"')
        return words


def telegram(wording: Wording) -> str:
    """``lofi piano beat, 82 bpm``: comma-separated key words, never fewer than two."""
    lead = wording.lead() if wording.kept() else ""
    style = wording.style()
    noun = wording.noun() if wording.kept() and style.split()[-1] not in SELF_SUFFICIENT else ""
    head = " ".join(word for word in (style, lead, noun) if word) if noun else style
    backing = [name for name in wording.backing()[:2] if name != lead]
    rest = [*wording.moods(), "" if noun else lead, *backing, wording.tempo(), wording.key(), *wording.extra()]
    rest = [word for word in rest if word] or list(wording.facts.moods[:1])
    return ", ".join([head, *rest])


def mood_first(wording: Wording) -> str:
    """``Mellow, dusty lofi beat with piano and bass at 82 bpm in A minor``."""
    slow_or_fast = [tempo_word(wording.facts.tempo)] if wording.facts.tempo else []
    text = wording.described(wording.moods() or slow_or_fast)
    instruments = [name for name in (wording.lead(), *wording.backing()) if name]
    text += f" with {join(instruments)}" if instruments else ""
    tempo, key = wording.tempo(), wording.key()
    text += f" at {tempo.split(', ')[-1]}" if tempo else ""
    text += f" in {key}" if key else ""
    return capital(", ".join([text, *wording.extra()]))


def instrument_first(wording: Wording) -> str:
    """``Piano over bass and drums: a mellow lofi beat, 82 bpm.``"""
    lead, backing = wording.lead(), wording.backing()
    described = wording.described(wording.moods()[:1])
    described = described if described.endswith("music") else article(described)
    if lead:
        text = f"{lead} {wording.choose(('over', 'with'))} {join(backing)}" if backing else lead
        text += wording.choose((": ", ", ", " in ")) + described
    else:
        text = described
    words = (text, wording.tempo(), wording.key(), *wording.extra())
    return capital(", ".join(word for word in words if word)) + "."


def prose(wording: Wording) -> str:
    """Two or three full sentences."""
    facts = wording.facts
    described = wording.described(wording.moods(), with_noun=False)
    if described.split()[-1] not in SELF_SUFFICIENT:
        described += wording.choose((" track", " piece", " instrumental"))
    text = wording.choose((f"This is {article(described)}.", f"{capital(article(described))}."))
    lead, backing = wording.lead(), wording.backing()
    if lead and backing:
        options = ("It features {} over {}.", "The lead instrument is {}, joined by {}.", "{} in front, {} behind.")
        text += " " + capital(wording.choose(options).format(lead, join(backing)))
    elif lead:
        text += f" {wording.choose(('It features', 'The main instrument is'))} {lead}."
    tempo, key = wording.tempo().split(", ")[-1], wording.key()
    if tempo and key:
        text += wording.choose((f" The tempo is {tempo} and the key is {key}.", f" It runs at {tempo} in {key}."))
    elif tempo or key:
        text += f" The tempo is {tempo}." if tempo else f" It is in {key}."
    extra = wording.extra()
    text += f" {capital(', '.join(extra))}." if extra else ""
    return f"{text} {facts.description}" if facts.description and wording.kept() else text


def captions(facts: Facts, rng: np.random.Generator) -> list[str]:
    """Four different captions in random order, one of each build; the first is *the* caption.

    The telegram keeps the fewest facts and prose the most.
    """
    builds = [(telegram, 0.55), (mood_first, 0.6), (instrument_first, 0.65), (prose, 0.8)]
    texts = [build(Wording(facts, rng, keep)) for build, keep in builds]
    return [texts[index] for index in rng.permutation(len(texts))]
