"""Ideas behind words, their endings, and a table that refuses to be wrong quietly."""

import pytest

from appliance.tasks.glossary import Glossary, read_glossary

TABLE = """\
idea\ten\thi\tta
-\tthe,is\tहै,का\tஒரு
price\tprice,rate\tकीमत,दाम\tவிலை
credit\tcredit\tउधार,खाता\tகடன்
home\thome\tघर\tவீடு
"""


@pytest.fixture
def small() -> Glossary:
    return read_glossary(TABLE)


def test_one_idea_in_three_languages_is_one_term(small: Glossary) -> None:
    assert small.terms("rate") == small.terms("दाम") == small.terms("விலை?") == ("#price",)


def test_a_word_stands_for_its_endings(small: Glossary) -> None:
    assert small.terms("कीमतों खाते கடனுக்கு வீட்டில்") == ("#price", "#credit", "#credit", "#home")


def test_a_short_word_stands_for_itself_alone(small: Glossary) -> None:
    assert small.terms("घर घराना") == ("#home", "घराना")


def test_english_endings_are_few(small: Glossary) -> None:
    assert small.terms("rate rates rateable") == ("#price", "#price", "rateable")


def test_a_written_word_means_what_is_written() -> None:
    """`চালু` (open) begins like `চাল` (rice): only words that are not in the table go by their beginning."""
    both = read_glossary("idea\ten\tbn\nrice\trice\tচাল\nopen\topen\tচালু\n-\tthe\tকেনা\nbuy\tbuy\tকেনার\n")
    assert both.terms("চাল চালু কেনা কেনার") == ("#rice", "#open", "#buy")
    assert both.terms("চালের") == ("#open", "#rice")


def test_words_that_say_nothing_are_left_out_and_unknown_ones_stay(small: Glossary) -> None:
    assert small.terms("the Redmi है abc@upi ₹१,०००") == ("redmi", "abc@upi", "1000")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("price\tprice\tकीमत", "line 3 (price): 2 languages, not 3"),
        ("price\tprice\tकम से कम\tவிலை", "line 3 (price), hi: 'कम से कम' is not one word"),
        ("price\tprice\t\tவிலை", "line 3 (price), hi: '' is not one word"),
    ],
)
def test_a_bad_line_is_named(line: str, told: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_glossary("idea\ten\thi\tta\n-\tthe\tहै\tஒரு\n" + line)
    assert told in str(refused.value)


def test_the_glossary_that_comes_along_covers_every_language_in_every_line(glossary: Glossary) -> None:
    for words in ("delivery charge", "डिलीवरी शुल्क", "ডেলিভারি চার্জ", "டெலிவரி கட்டணம்", "డెలివరీ చార్జ్", "डिलिव्हरी शुल्क"):
        assert {"#deliver", "#charge"} <= set(glossary.terms(words)), words
