"""The golden shops are what the tests take them for."""

from collections import Counter

import pytest

from tests.tasks.shops import kirana, textiles


@pytest.mark.parametrize("shop", [kirana, textiles])
def test_a_shop_has_twenty_entries_and_ten_questions_in_each_of_five_languages(shop) -> None:  # type: ignore[no-untyped-def]
    entries, questions = shop()
    assert len(entries) == 20
    assert Counter(each.language for each in questions) == dict.fromkeys(("hi", "ta", "te", "bn", "mr"), 10)
    assert {each.expected for each in questions} == {entry.id for entry in entries}
    assert not {each.question for each in questions} & {entry.question for entry in entries}
    languages = {entry.id: entry.language for entry in entries}
    assert sum(languages[each.expected] != each.language for each in questions) >= 30, "most cross a language"
