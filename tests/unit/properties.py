"""What the property tests share: how many examples they try, and values of every kind that users can send.

In `make test`, they try few examples, always the same ones. `make fuzz` sets `REHEATD_FUZZ`, and they try that many
times as many, each time others.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("REHEATD_FUZZ", "0"))
HANG_S = 30.0
"""What takes as long hangs: none of these calls takes a slow machine a tenth of it."""
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]

ANY_TEXT = st.text(
    alphabet=st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from("\0\n\"'\\[]/"))
)
"""Texts with everything in them: null characters, halves of surrogate pairs, quotes, markup."""
PRINTABLE = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"))
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, 5e-324, float("nan"), float("inf")]),
)
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ANY_TEXT, inner, max_size=4)),
    max_leaves=8,
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1")


def tries(quick: int, **more: Any) -> settings:
    """Settings of a property test that tries `quick` examples in `make test`."""
    many = quick * (FACTOR or 1)
    return settings(
        max_examples=many, derandomize=not FACTOR, database=None, deadline=None, suppress_health_check=CHECKS, **more
    )


@contextmanager
def in_time() -> Iterator[None]:
    """Checks that what is in the block does not hang."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < HANG_S


def encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding, errors="replace")


def files_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Contents of text files in several encodings, some of them damaged."""
    whole = st.builds(encoded, texts, st.sampled_from(ENCODINGS))
    return st.one_of(whole, st.builds(damaged, whole, st.data()), st.binary())


@contextmanager
def new_folder() -> Iterator[Path]:
    """An empty folder for one example."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """The content with a part of it cut out, doubled or replaced."""
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 600)))
    instead = data.draw(st.one_of(st.just(b""), st.binary(max_size=12), st.just(2 * content[start:end])))
    return content[:start] + instead + content[end:]


def as_json(value: Any) -> str:
    """JSON as Python writes it: with NaN, infinities and halves of surrogate pairs as escapes."""
    return json.dumps(value)
