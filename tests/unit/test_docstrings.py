"""Docstrings: every module has one, and every docstring begins with a line that sums up what it describes."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(file for package in ("reheatd", "workers", "cli") for file in (ROOT / package).rglob("*.py"))
SECTION = re.compile(r"(Args|Raises|Returns|Yields)\b[\w, ]*:")


def faults(source: str) -> list[str]:
    """What is wrong with the docstrings in `source`, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node, clean=False)
        if docstring is None:
            if isinstance(node, ast.Module):
                found.append("line 1: the module has no docstring")
            continue
        summary, _, rest = docstring.partition("\n")
        line = node.body[0].lineno
        if not summary.strip():
            found.append(f"line {line}: the docstring begins with an empty line")
        elif SECTION.match(summary):
            found.append(f"line {line}: the docstring begins with the section {summary!r}, not with a summary")
        elif not summary.endswith((".", ":")):
            found.append(f"line {line}: the summary is not one sentence on one line: {summary!r}")
        elif summary.endswith(".") and rest.split("\n", 1)[0].strip():
            found.append(f"line {line}: no empty line follows the summary {summary!r}")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_every_docstring_begins_with_a_summary_line(module: Path) -> None:
    assert faults(module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1", "no docstring"),
        ('"""\nA summary too late.\n"""', "an empty line"),
        ('"""Raises ValueError: always."""', "the section"),
        ('"""M."""\ndef f():\n    """Args:\n        x: A number.\n    """', "line 3: .* the section"),
        ('"""Half a\nsentence."""', "one sentence on one line"),
        ('"""A summary.\nMore at once.\n"""', "no empty line follows"),
    ],
)
def test_a_docstring_without_a_summary_is_found(source: str, says: str) -> None:
    (fault,) = faults(source)
    assert re.search(says, fault)
