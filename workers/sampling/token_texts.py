"""The text of every token of a completion, so that the texts together are the completion."""

from collections.abc import Callable

LONGEST_CHARACTER = 4
"""Tokens that a character may be spread over: one for each of its bytes in UTF-8."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers write for bytes that are no character."""


def token_texts(decode: Callable[[list[int]], str], token_ids: list[int]) -> list[str]:
    """The texts of tokens that follow each other.

    A token alone may be half a character, or lose the space before it. So each is decoded together with those before
    it, and its text is what it adds. A character that is spread over several tokens belongs to the last of them, and
    the others are empty.

    Args:
        decode: Gives the text of tokens that follow each other.
    """
    texts: list[str] = []
    first = whole = 0  # the tokens that are decoded before the present one, and the end of those that have their text
    before = ""
    for end in range(1, len(token_ids) + 1):
        text = decode(token_ids[first:end])
        if text.endswith(UNFINISHED) and end - whole < LONGEST_CHARACTER and end < len(token_ids):
            texts.append("")
            continue
        texts.append(text[len(before) :])
        first, whole = whole, end
        before = decode(token_ids[first:whole])
    return texts
