"""OffsetMap: where each piece of changed text came from, so that no rewriting ever loses a place in the original."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """`replacement` stands in the new text for the code points [start, end) of the old one."""

    start: int
    end: int
    replacement: str


@dataclass(frozen=True)
class OffsetMap:
    """For each code point of the new text the span of the original that it came from, both counted in code points.

    Starts and ends never decrease, and the spans together cover the whole original: what was deleted belongs to the
    code point before it, or to the first one if nothing stands before it.
    """

    original_points: int
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Original span of the new text's [start, end); an empty span maps to an empty one. ValueError beyond it."""
        if not 0 <= start <= end <= len(self.starts):
            raise ValueError(f"span [{start}, {end}) lies outside a text of {len(self.starts)} code points")
        if start == end:
            place = self.starts[start] if start < len(self.starts) else self.original_points
            return place, place
        return self.starts[start], self.ends[end - 1]

    def then(self, later: "OffsetMap") -> "OffsetMap":
        """The map of two rewritings in a row: this one first, `later` on its result."""
        if later.original_points != len(self.starts):
            raise ValueError(f"the later map is over {later.original_points} code points, not {len(self.starts)}")
        spans = [self.span(start, end) for start, end in zip(later.starts, later.ends, strict=True)]
        return OffsetMap(self.original_points, tuple(s for s, _ in spans), tuple(e for _, e in spans))


def identity(points: int) -> OffsetMap:
    """The map of a text of `points` code points that stayed as it is."""
    return OffsetMap(points, tuple(range(points)), tuple(range(1, points + 1)))


def rewrite(text: str, pieces: Iterable[Piece]) -> tuple[str, OffsetMap]:
    """Replace the pieces of `text`, which lie in order without overlap; all between them stays.

    A replacement as long as what it replaces maps point by point; any other maps each of its points to the whole piece.
    """
    words: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at = 0

    def keep(start: int, end: int) -> None:
        words.append(text[start:end])
        starts.extend(range(start, end))
        ends.extend(range(start + 1, end + 1))

    for piece in pieces:
        keep(at, piece.start)
        if len(piece.replacement) == piece.end - piece.start:
            starts.extend(range(piece.start, piece.end))
            ends.extend(range(piece.start + 1, piece.end + 1))
        elif piece.replacement:
            starts.extend([piece.start] * len(piece.replacement))
            ends.extend([piece.end] * len(piece.replacement))
        elif ends:
            ends[-1] = piece.end
        words.append(piece.replacement)
        at = piece.end
    keep(at, len(text))
    if starts:
        starts[0] = 0
    return "".join(words), OffsetMap(len(text), tuple(starts), tuple(ends))
