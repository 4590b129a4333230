"""The text of each token: together they are the completion, whatever its characters are made of."""

import pytest

from tests.tiny_policy import tiny_tokenizer
from workers.sampling.token_texts import token_texts


def of_bytes(token_ids: list[int]) -> str:
    return bytes(token_ids).decode(errors="replace")


def of_words(token_ids: list[int]) -> str:
    """Tokens that begin with a space, which is not written at the beginning of a text, as SentencePiece has them."""
    return "".join([" two", " words", "!"][token] for token in token_ids).removeprefix(" ")


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界!", "👩‍👩‍👧 and 🇦🇹", "ends within \N{GRINNING FACE}"])
def test_characters_of_several_tokens_stay_whole(text: str) -> None:
    texts = token_texts(of_bytes, [*text.encode()])
    assert "".join(texts) == text and len(texts) == len(text.encode())
    places = [len(text[:end].encode()) - 1 for end in range(1, len(text) + 1)]
    assert [texts[place] for place in places] == [*text], "each belongs to the last of its tokens"


def test_spaces_before_words_are_not_lost() -> None:
    assert token_texts(of_words, [0, 1, 2, 0]) == ["two", " words", "!", " two"]


def test_bytes_that_are_no_text_hold_nothing_up() -> None:
    ids = [*b"a", *[0xFF] * 9, *b"b", 0xE4]
    texts = token_texts(of_bytes, ids)
    assert len(texts) == len(ids) and texts[0] == "a" and texts[-2].endswith("b")
    assert "".join(texts).replace("\N{REPLACEMENT CHARACTER}", "") == "ab"
    assert token_texts(of_bytes, []) == []


def test_special_tokens_are_shown() -> None:
    tokenizer, vocabulary = tiny_tokenizer(None)
    ids = [*tokenizer.encode("Är", add_special_tokens=False), vocabulary["<|im_end|>"]]
    assert token_texts(tokenizer.decode, ids) == ["", "Ä", "r", "<|im_end|>"]
