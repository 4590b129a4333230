"""Files of JSON lines, from the editors and programs that users have."""

import json
from pathlib import Path
from typing import Any

import pytest

from reheatd.errors import BadInputError
from reheatd.json_lines import DEEPEST, LONGEST_LINE, read_json_lines


def read(folder: Path, content: bytes) -> list[tuple[str, dict[str, Any]]]:
    file = folder / "file.jsonl"
    file.write_bytes(content)
    lines = read_json_lines(file, expected="something else", param="task.path")
    return [(place.where.removeprefix(f"{file}, "), values) for place, values in lines]


def test_lines_end_at_the_newline_alone(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\x0cfour"
    content = json.dumps({"a": text}, ensure_ascii=False).replace("\\f", "\x0c") + "\n"
    with pytest.raises(BadInputError, match="Invalid control character"):
        read(tmp_path, content.encode())  # JSON allows no form feed, and the line is not cut there
    content = json.dumps({"a": text}, ensure_ascii=False) + '\r\n \t\n\n{"b": 1}'
    assert read(tmp_path, content.encode()) == [("line 1", {"a": text}), ("line 4", {"b": 1})]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"a": 1}\n') == [("line 1", {"a": 1})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe{", "not UTF-8 at byte 1"),
        (b'{"a": 1', "not valid JSON .* at column 8"),
        (b'{"a": NaN}', "not valid JSON .NaN is not a number"),
        (b'{"a": 1e999}', "holds 1e999, which is too large for a number"),
        (b'{"a": [{"b\\ud83d": 1}]}', r"holds \\ud83d, half of a surrogate pair"),
        (b'{"a": "\\u0000"}', "holds a null character; leave it out"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b"[1]", "needs a JSON object, got list"),
        (b'{"a": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", f"more than {DEEPEST} levels"),
        (b"[" * 100_000, f"more than {DEEPEST} levels"),
        (b'{"a": "' + b"x" * LONGEST_LINE + b'"}', f"more than the {LONGEST_LINE} that a line may have"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        read(tmp_path, b'{"a": 1}\n\n' + line + b"\n")
    assert caught.value.message.startswith(f"{tmp_path / 'file.jsonl'}, line 3: ")
    assert caught.value.message.endswith("; expected something else")
    assert caught.value.param == "task.path"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_in_another_encoding_is_told(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(BadInputError, match=r"file\.jsonl is UTF-16 or UTF-32, by its first bytes; save it as UTF-8"):
        read(tmp_path, '{"a": 1}\n'.encode(encoding))


def test_what_is_just_within_the_limits_is_read(tmp_path: Path) -> None:
    deep = b'{"a": ' + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1) + b"}"
    assert len(read(tmp_path, deep)) == 1
    assert len(read(tmp_path, b'{"a": "' + b"x" * (LONGEST_LINE - 9) + b'"}')) == 1
