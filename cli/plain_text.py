"""Output for terminals that show nothing but ASCII: characters that they lack are replaced by similar ones."""

import codecs
import os
import sys
from io import TextIOWrapper

HANDLER = "reheatd_lookalike"
"""Name of the error handler that replaces characters."""
LOOKALIKES = {
    **dict.fromkeys("─━╌╸╺═", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("●•", "o"),
    **dict.fromkeys("–—", "-"),
    **dict(zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True)),
    "…": ".",
    "→": ">",
    "←": "<",
    "\N{REPLACEMENT CHARACTER}": "?",
}
"""What stands for a character, of the same width, so that columns stay straight."""


def use_plain_text_where_needed() -> None:
    """Makes both output streams print what the terminal cannot show as something that it can; nothing ever fails.

    With LC_ALL=C, which asks for ASCII, Python would print UTF-8 all the same.
    """
    codecs.register_error(HANDLER, _replace)
    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="ascii" if locale in ("C", "POSIX") else None, errors=HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_lookalike, error.object[error.start : error.end])), error.end


def _lookalike(character: str) -> str:
    known = LOOKALIKES.get(character)
    if known is not None:
        return known
    if "\u2500" <= character <= "\u257f":  # corners and crossings of tables
        return "+"
    if "\u2800" <= character <= "\u28ff":  # spinners
        return "*"
    return character.encode("ascii", "backslashreplace").decode()
