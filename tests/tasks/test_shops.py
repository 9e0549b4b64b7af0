"""The golden shops are what the tests take them for."""

from collections import Counter

import pytest

from tests.tasks.shops import read_shop


@pytest.mark.parametrize("name", ["kirana", "textiles"])
def test_a_shop_has_twenty_entries_and_ten_questions_in_each_of_five_languages(name: str) -> None:
    shop = read_shop(name)
    assert len(shop.entries) == 20
    assert Counter(each.language for each in shop.questions) == dict.fromkeys(("hi", "ta", "te", "bn", "mr"), 10)
    assert {each.expected for each in shop.questions} == {entry.id for entry in shop.entries}
    assert not {each.question for each in shop.questions} & {entry.question for entry in shop.entries}
    languages = {entry.id: entry.language for entry in shop.entries}
    assert sum(languages[each.expected] != each.language for each in shop.questions) >= 30, "most cross a language"
