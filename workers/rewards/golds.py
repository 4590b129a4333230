r"""The gold of an answer as data sets write it: a number, LaTeX, `\boxed{...}` in a solution, or GSM8K's `#### 42`."""

import re
from decimal import Decimal

from math_verify import parse
from sympy import Basic, MatrixBase

from reheatd.errors import BadInputError

Gold = list[Basic | MatrixBase | str]

NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d+)?")
QUANTITY = re.compile(r"(\S*\d) [A-Za-z][A-Za-z ]+")
SPACED = re.compile(r"\d{1,3}( \d{3})+")
SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d+)?[eE][+-]?\d{1,2}")
TRUTHS = frozenset(("yes", "no", "true", "false"))
WORD = re.compile(r"\\(?:text|textbf|textrm|textit|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
COMMAND = re.compile(r"\\[A-Za-z]+")
PROSE = re.compile(r"[A-Za-z]{4,}")
NAMES = frozenset(("sqrt", "infinity", "cosh", "sinh", "tanh", "asin", "acos", "atan", "log", "pmatrix"))
MIXED = re.compile(r"(?<![\d.^_}])(\d+)\s*\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
ENDS_LIKE_A_UNIT = re.compile(r"(?<=\d)((?!i$)[A-Za-z]{1,3})$")
PLUS_MINUS = r"\pm"
REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\overline\{?(\d+)\}?")


def final_answer(text: str) -> str:
    r"""What a text states as its answer: what follows its last `####`, what its last `\boxed` holds, or all of it."""
    _, mark, last = text.rpartition("####")
    if mark:
        return last.strip()
    return (boxed(text) or text).strip()


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` or `\fbox{...}` in `text`; None if there is none."""
    starts = [match.end() for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]
    if not starts:
        bare = re.findall(r"\\boxed\s+(\S+?)(?=[\s$.]|$)", text)
        return bare[-1] if bare else None
    depth = 1
    for position in range(starts[-1], len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return text[starts[-1] : position]
    return None


def word_of(text: str) -> str | None:
    r"""The words of an answer that is text in LaTeX, such as `\text{(A)}`, in one form; None if it is an expression."""
    text = normal(text)
    found = WORD.fullmatch(text)
    if found and re.search("[A-Za-z]", found[1]):
        return plain(found[1])
    return plain(text) if text.casefold() in TRUTHS else None


def plain(text: str) -> str:
    """Text without LaTeX's commands for text, case, white space, and the marks around it."""
    return " ".join(WORD.sub(r"\1", text).casefold().split()).strip(" .,:;!$*()[]{}\\\"'")


def parse_gold(answer: str) -> Gold:
    """The expressions that math-verify compares with.

    Raises:
        BadInputError: The answer is no number, expression or LaTeX text that can be read.
    """
    text = normal(final_answer(answer))
    if (quantity := QUANTITY.fullmatch(text)) and NUMBER.fullmatch(quantity[1]):
        text = quantity[1]
    elif SPACED.fullmatch(text):
        text = text.replace(" ", "")
    if text and NUMBER.fullmatch(text):
        found = parse(text)
    elif any(word not in NAMES for word in PROSE.findall(COMMAND.sub(" ", WORD.sub(" ", text)))):
        found = []
    else:
        found = parse(f"\\boxed{{{text}}}")
    if not any(not isinstance(each, str) for each in found):
        raise BadInputError(f"{_shortened(answer)} is neither a number nor an expression in LaTeX")
    return found


def normal(text: str) -> str:
    r"""LaTeX in a form that math-verify reads right.

    It has no marks of formulas around it and no spaces inside numbers; mixed numbers and repeating decimals are
    fractions, `a \pm b` is a list of both, and `2m` is a product, not two metres.
    """
    text = text.strip().rstrip(".").strip()
    for start, end in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(text) > len(start + end) and text.startswith(start) and text.endswith(end):
            text = text[len(start) : -len(end)].strip()
    if SCIENTIFIC.fullmatch(text):
        return f"{Decimal(text):f}"
    text = re.sub(r"^\+(?=[\d.])", "", text)
    text = re.sub(r"^(-?)\.(?=\d)", r"\g<1>0.", text)
    text = re.sub(r"(?<=\d)(,?)(\\[!,;: ]|\{,\})(?=\d{3})", "", text)
    text = MIXED.sub(_of_mixed, REPEATING.sub(_of_repeating, text))
    text = ENDS_LIKE_A_UNIT.sub(r"{\1}", text)
    if PLUS_MINUS in text:
        text = f"{text.replace(PLUS_MINUS, '+')}, {text.replace(PLUS_MINUS, '-')}"
    return text


def _of_repeating(match: re.Match[str]) -> str:
    r"""A repeating decimal as a fraction: `0.1\overline{6}` is (16 - 1) / 90."""
    sign, whole, once, again = match.groups()
    top = int(whole + once + again) - int((whole + once) or 0)
    return rf"{sign}\frac{{{top}}}{{{(10 ** len(again) - 1) * 10 ** len(once)}}}"


def _of_mixed(match: re.Match[str]) -> str:
    whole, top, bottom = map(int, match.groups())
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:40]} ... {text[-36:]}")
