"""Text that users write: files in UTF-8, and values that files, processes and tokenizers can take."""

import codecs

LONGEST_SHOWN = 200
"""Characters of a value that a message shows at most."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
"""Byte order marks of the encodings that Windows calls Unicode; that of UTF-32 begins with one of UTF-16 or alone."""


def decode(content: bytes) -> str:
    """The text in `content`, which is UTF-8, with or without a byte order mark.

    Raises:
        ValueError: It is another encoding; the message is the end of a sentence that begins with the file's name.
    """
    if content.startswith(UTF_16):
        raise ValueError("is not UTF-8 but UTF-16 or UTF-32, by its first bytes; save it as UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from error


def flaw(text: str) -> str | None:
    """What makes a text unusable for files, other processes and tokenizers; None if it can be used."""
    if "\0" in text:
        return "holds a null character"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds \\u{ord(text[error.start]):04x}, half of a surrogate pair"
    return None


def shown(value: object) -> str:
    """The value for a message: what Python writes for it, cut short if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out a number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def duration(seconds: float) -> str:
    """A duration, e.g. `12 s`, `3 min 20 s` or `2 h 5 min`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
