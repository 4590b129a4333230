"""Markdown that the generated pages are made of."""

from collections.abc import Iterable, Sequence

NOTE = "<!-- Made from the code by `make docs`. -->\n"


def page(title: str, *parts: str) -> str:
    """A page: its title, then the parts with an empty line between them."""
    return "\n\n".join([f"{NOTE}\n# {title}", *(part for part in parts if part)]) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; empty if it has no rows."""
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |", *lines])


def code(value: str) -> str:
    """A text as code in a line."""
    fence = "``" if "`" in value else "`"
    return f"{fence}{value}{fence}" if value else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
