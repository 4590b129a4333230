"""Texts in encodings that users have, and values in messages."""

import pytest

from reheatd.text import decode, flaw, shown


def test_utf_8_is_read_and_other_encodings_are_told() -> None:
    assert decode("é\u2028".encode("utf-8-sig")) == "é\u2028"
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(ValueError, match="not UTF-8 but UTF-16 or UTF-32"):
            decode("é".encode(encoding))
    with pytest.raises(ValueError, match="not UTF-8 at byte 3; save it as UTF-8"):
        decode(b"ab\xe9")


def test_what_files_and_tokenizers_cannot_have_is_found() -> None:
    assert flaw("🙂 é\n\t") is None
    assert flaw("a\0") == "holds a null character"
    assert flaw("a\ud83d") == "holds \\ud83d, half of a surrogate pair"


def test_a_value_in_a_message_is_short() -> None:
    assert shown("it's") == '"it\'s"'
    assert shown("x" * 1000) == "'" + "x" * 199 + "..."
    assert shown(1 << 20_000) == "a number of thousands of digits"
