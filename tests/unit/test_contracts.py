import pytest

from headstart.contracts import ClassNames, listed
from headstart.errors import DataError


@pytest.mark.parametrize("mark", ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\ud800"])
def test_names_that_break_a_line_or_steer_a_terminal_are_refused(mark):
    with pytest.raises(DataError, match="control characters") as error:
        ClassNames(("cat", f"do{mark}g"))
    assert "cat" not in str(error.value)
    assert str(error.value).isprintable()


def test_other_names_of_all_languages_are_accepted():
    names = ("Café au lait", "犬", "כלב", "dog 🐕", "a, b", "x\u200dy", "ไก่")
    assert ClassNames(names).names == names


@pytest.mark.parametrize(
    ("names", "told"),
    [((), "none"), (("cat",), "only 'cat'"), (("a", ""), "index 1"), (("a", "b", "a"), "unique.*'a'")],
)
def test_too_few_empty_and_repeated_names_are_refused(names, told):
    with pytest.raises(DataError, match=told):
        ClassNames(names)


def test_messages_name_few_of_many_classes():
    many = ClassNames(tuple(f"class-{number:04}" for number in range(1000)))
    with pytest.raises(DataError) as error:
        many.index("class-00001")
    assert "'class-0009' and 990 more" in str(error.value)
    assert len(str(error.value)) < 300
    assert listed(["cat", "dog"]) == "'cat', 'dog'"
    assert len(listed(["x" * 10_000])) < 100
    with pytest.raises(DataError) as error:
        ClassNames(many.names * 2)
    assert len(str(error.value)) < 300
