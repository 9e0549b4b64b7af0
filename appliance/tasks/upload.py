"""A shop's questions and answers as they are uploaded, JSON or CSV; errors name the row and the column."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.store.collections import ENTRIES_MAX, Entry
from appliance.text.marks import Marked

COLUMNS = ("id", "question", "answer", "tags", "language")
NEEDED = COLUMNS[:3]
TAGS_MAX = 16

EntryId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Tag = Annotated[str, Field(min_length=1, max_length=64), Marked]


class UploadRefused(Exception):
    """The upload cannot be used; `field` names the place."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class UploadedEntry(BaseModel):
    """One question and its answer. `tags` are words a customer may use for it; `language` is an ISO 639 code."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: EntryId
    question: Annotated[str, Field(min_length=1, max_length=500), Marked]
    answer: Annotated[str, Field(min_length=1, max_length=4000), Marked]
    tags: Annotated[list[Tag], Field(max_length=TAGS_MAX)] = []
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = None

    @property
    def entry(self) -> Entry:
        return Entry(self.id, self.question, self.answer, tuple(self.tags), self.language)


def checked(uploaded: list[UploadedEntry]) -> tuple[Entry, ...]:
    """Raises UploadRefused when an id stands twice or a text is empty but for spaces."""
    return _unique(((f"entries[{place}]", each.entry) for place, each in enumerate(uploaded)), ".")


def read_csv(data: bytes) -> tuple[Entry, ...]:
    """UTF-8 with or without a byte order mark; the first line names the columns; several tags stand apart by `;`.

    Raises UploadRefused naming the row, as a spreadsheet counts it, and the column.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise UploadRefused("not UTF-8: save the sheet as 'CSV UTF-8'", f"row {row}") from None
    if "\0" in text:
        raise UploadRefused(
            "holds a zero byte: save the sheet as 'CSV UTF-8'", f"row {text.count(chr(10), 0, text.index(chr(0))) + 1}"
        )
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        _check_header(header)
        return _unique(_rows(rows, header), ", column ")
    except csv.Error as error:
        raise UploadRefused(f"not CSV ({error}): look for a quote that is not closed", f"row {rows.line_num}") from None


def _check_header(header: list[str]) -> None:
    for name in NEEDED:
        if name not in header:
            raise UploadRefused(f"the first line must name the columns {', '.join(NEEDED)}; {name} is missing", "row 1")
    for name in header:
        if name not in COLUMNS or header.count(name) > 1:
            raise UploadRefused(f"unknown or repeated column {name[:40]!r}; known are {', '.join(COLUMNS)}", "row 1")


def _rows(rows: Any, header: list[str]) -> Iterator[tuple[str, Entry]]:
    first = rows.line_num + 1
    for cells in rows:
        place, first = f"row {first}", rows.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue  # Spreadsheets write empty lines below the last one.
        if len(cells) != len(header):
            raise UploadRefused(f"{len(cells)} cells under {len(header)} columns", place)
        yield place, _row(dict(zip(header, (cell.strip() for cell in cells), strict=True)), place)


def _row(cells: dict[str, str], place: str) -> Entry:
    values: dict[str, Any] = {name: cell for name, cell in cells.items() if cell or name in NEEDED}
    if "tags" in values:
        values["tags"] = [tag.strip() for tag in cells["tags"].split(";") if tag.strip()]
    try:
        return UploadedEntry.model_validate(values).entry
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise UploadRefused(fault["msg"], f"{place}, column {fault['loc'][0]}") from None


def _unique(placed: Iterable[tuple[str, Entry]], joint: str) -> tuple[Entry, ...]:
    seen: dict[str, str] = {}
    entries: list[Entry] = []
    for place, entry in placed:
        if len(entries) == ENTRIES_MAX:
            raise UploadRefused(f"a collection holds at most {ENTRIES_MAX} entries: split it into several", place)
        if entry.id in seen:
            raise UploadRefused(f"the same id as {seen[entry.id]}: ids are unique", f"{place}{joint}id")
        for name in ("question", "answer"):
            if not getattr(entry, name).strip():
                raise UploadRefused("only spaces", f"{place}{joint}{name}")
        seen[entry.id] = place
        entries.append(entry)
    if not entries:
        raise UploadRefused("no entries: send at least one question and answer", "entries")
    return tuple(entries)
