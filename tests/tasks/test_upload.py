"""Uploads: what spreadsheets really write is taken, what cannot be used is refused by row and column."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.collections import ENTRIES_MAX, Entry
from appliance.tasks.upload import UploadedEntry, UploadRefused, checked, read_csv

HEAD = "id,question,answer\n"


def test_a_sheet_with_byte_order_mark_quotes_blank_lines_and_tags() -> None:
    sheet = (
        "\ufeffID, Question ,answer,tags,language\r\n"
        'hours,"कब खुलती है, और कब बंद?","सुबह ""8"" बजे\nरात 9 बजे",समय; time ;,hi\r\n'
        ",,,,\r\n"
        "upi,UPI?,yes,,\r\n"
    )
    assert read_csv(sheet.encode()) == (
        Entry("hours", "कब खुलती है, और कब बंद?", 'सुबह "8" बजे\nरात 9 बजे', ("समय", "time"), "hi"),
        Entry("upi", "UPI?", "yes"),
    )


@pytest.mark.parametrize(
    ("sheet", "field", "told"),
    [
        ("", "row 1", "id is missing"),
        ("id,question\nx,y\n", "row 1", "answer is missing"),
        ("id,question,answer,price\n", "row 1", "'price'"),
        ("id,question,answer,answer\n", "row 1", "repeated column 'answer'"),
        (HEAD, "entries", "no entries"),
        (HEAD + "a,b\n", "row 2", "2 cells under 3 columns"),
        (HEAD + 'a,"x\ny",z\nb,,z\n', "row 4, column question", "at least 1 character"),
        (HEAD + "a,x,y\na,x,y\n", "row 3, column id", "the same id as row 2"),
        (HEAD + "a b,x,y\n", "row 2, column id", "pattern"),
        (HEAD + f"a,{'x' * 501},y\n", "row 2, column question", "at most 500"),
        (HEAD + "a,x,y\x00\n", "row 2", "zero byte"),
        (HEAD + 'a,x,"y\n', "row 2", "quote that is not closed"),
        ("id,question,answer,language\na,x,y,Hindi\n", "row 2, column language", "pattern"),
    ],
)
def test_a_bad_sheet_is_refused_by_its_place(sheet: str, field: str, told: str) -> None:
    with pytest.raises(UploadRefused) as refused:
        read_csv(sheet.encode())
    assert refused.value.field == field
    assert str(refused.value).startswith(field)
    assert told in str(refused.value)


def test_a_sheet_in_another_encoding_is_refused_by_its_row() -> None:
    with pytest.raises(UploadRefused, match="row 2: not UTF-8: save the sheet as 'CSV UTF-8'"):
        read_csv(HEAD.encode() + "a,₹,y\n".encode("utf-16"))


def test_too_many_rows_are_refused() -> None:
    sheet = HEAD + "".join(f"{n},x,y\n" for n in range(ENTRIES_MAX + 1))
    with pytest.raises(UploadRefused, match=f"row {ENTRIES_MAX + 2}: a collection holds at most {ENTRIES_MAX}"):
        read_csv(sheet.encode())


def test_json_entries_with_one_id_or_only_spaces_are_refused() -> None:
    entry = UploadedEntry(id="a", question="x", answer="y")
    with pytest.raises(UploadRefused, match=r"entries\[1\].id: the same id as entries\[0\]"):
        checked([entry, entry])
    with pytest.raises(UploadRefused, match=r"entries\[0\].answer: only spaces"):
        checked([UploadedEntry(id="a", question="x", answer=" \n")])


words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).map(str.strip).filter(bool)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_what_a_spreadsheet_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(["id", "question", "answer"])
    writer.writerows((number, question, answer) for number, (question, answer) in enumerate(rows))
    read = read_csv(sheet.getvalue().encode("utf-8-sig"))
    assert [(entry.question, entry.answer) for entry in read] == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read_csv(data)
    except UploadRefused as refused:
        assert refused.field
