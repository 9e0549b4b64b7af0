"""Words of a shop that mean the same in several languages, so that a question in Tamil finds an answer in Hindi.

glossary.txt has one idea a line and one language a column; a word stands for its endings too: `कीमत` finds `कीमतों`.
The line named `-` holds words that say nothing about what is asked. To teach the box a language, add a column.
"""

import unicodedata
from dataclasses import dataclass, field
from importlib.resources import files

from appliance.text.tokenise import tokenise

STEM_POINTS_MIN = 3  # a shorter beginning is shared by too many words
SILENT = "-"
ENGLISH = "en"  # its endings are few and regular: they are taken off the word that is looked up


@dataclass(frozen=True)
class Glossary:
    """`whole` words and `stems` (beginnings of words), folded, with the ideas that they stand for.

    A word that is written in the table means what stands there; only other words are known by their beginning.
    """

    whole: dict[str, frozenset[str]]
    stems: dict[str, frozenset[str]]
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", max(map(len, self.stems), default=0))

    def ideas(self, word: str) -> frozenset[str]:
        """Of a folded word: as a whole, or by its longest known beginning; none for an unknown one."""
        for form in _forms(word):
            if found := self.whole.get(form):
                return found
        for length in range(min(len(word), self.longest), STEM_POINTS_MIN - 1, -1):
            if found := self.stems.get(word[:length]):
                return found
        return frozenset()

    def terms(self, text: str) -> tuple[str, ...]:
        """What an index compares, in order: `#idea` for each idea of a known word, an unknown word as it is."""
        terms: list[str] = []
        for token in tokenise(text):
            ideas = self.ideas(token.word)
            terms += sorted(f"#{idea}" for idea in ideas - {SILENT}) if ideas else [token.word]
        return tuple(terms)


def load_glossary() -> Glossary:
    """The glossary that comes with Nukkad."""
    return read_glossary(files(__package__).joinpath("glossary.txt").read_text("utf-8"))


def read_glossary(table: str) -> Glossary:
    """Columns apart by tabs, words of a cell by commas, languages in the first line. ValueError names the line."""
    whole: dict[str, set[str]] = {}
    stems: dict[str, set[str]] = {}
    header, *lines = table.splitlines()
    languages = header.split("\t")[1:]
    for number, line in enumerate(lines, 2):
        idea, *cells = line.split("\t")
        if len(cells) != len(languages):
            raise ValueError(f"glossary line {number} ({idea}): {len(cells)} languages, not {len(languages)}")
        for language, cell in zip(languages, cells, strict=True):
            for word in _words(cell, f"glossary line {number} ({idea}), {language}"):
                stem = _stem(word)
                whole.setdefault(word, set()).add(idea)
                if language != ENGLISH and idea != SILENT and len(stem) >= STEM_POINTS_MIN:
                    stems.setdefault(stem, set()).add(idea)
    return Glossary(_frozen(whole), _frozen(stems))


def _words(cell: str, place: str) -> tuple[str, ...]:
    """The folded words of a cell, all in one go, for the table is read at every start. ValueError names the word."""
    written = cell.split(",")
    tokens = tokenise("\n".join(written))
    if len(tokens) != len(written):
        wrong = next(word for word in written if len(tokenise(word)) != 1)
        raise ValueError(f"{place}: {wrong!r} is not one word")
    return tuple(token.word for token in tokens)


def _forms(word: str) -> tuple[str, ...]:
    """The word, and an English one also without an ending."""
    if not word.isascii():
        return (word,)
    return (word, *(word.removesuffix(ending) for ending in ("s", "es", "ed", "ing") if word.endswith(ending)))


def _stem(word: str) -> str:
    """Without the signs at its end, which are what an ending replaces: `ఖాతా`, `ఖాతాలో`; `கடன்`, `கடனுக்கு`."""
    while word and unicodedata.category(word[-1])[0] == "M":
        word = word[:-1]
    return word


def _frozen(table: dict[str, set[str]]) -> dict[str, frozenset[str]]:
    return {word: frozenset(ideas) for word, ideas in table.items()}
