"""Probe files, good and bad."""

import json
from pathlib import Path

import pytest

from reheatd.entropy.probes import load_probes
from reheatd.errors import BadInputError

GOOD = '{"prompt": "Hello?"}'


def write(folder: Path, *lines: str) -> Path:
    file = folder / "probes.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_bundled_set_has_64_different_probes() -> None:
    probes = load_probes(None, 64)
    assert len(probes) == 64
    assert len({json.dumps(messages) for messages in probes.probes}) == 64


def test_the_first_probes_are_used_and_the_digest_tells_sets_apart(tmp_path: Path) -> None:
    small, same, large = load_probes(None, 8), load_probes(None, 8), load_probes(None, 9)
    assert small.probes == large.probes[:8]
    assert small.digest == same.digest != large.digest


def test_prompt_and_messages_are_two_spellings_of_one_probe(tmp_path: Path) -> None:
    chat = '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\u2028there"}]}'
    probes = load_probes(write(tmp_path, GOOD, "", chat), 2)
    assert probes.probes[0] == ({"role": "user", "content": "Hello?"},)
    assert probes.probes[1][1] == {"role": "user", "content": "Hi\u2028there"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "x"', "not valid JSON"),
        ("[]", "needs a JSON object, got list; expected"),
        ('{"question": "x"}', 'either "prompt" or "messages"; expected'),
        ('{"prompt": "x", "messages": []}', 'either "prompt" or "messages"; expected'),
        ('{"messages": []}', "at least one message"),
        ('{"messages": [{"content": "x"}]}', 'without text as "role"'),
        ('{"messages": [{"role": "user"}]}', 'without text as "content"'),
        ('{"messages": [{"role": "user", "content": " "}]}', 'without text as "content"'),
        ('{"prompt": "  "}', '"prompt" must be text'),
        ('{"prompt": 3}', '"prompt" must be text that is not empty, got 3'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        load_probes(write(tmp_path, GOOD, "", line), 2)
    assert "line 3" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.param == "entropy.probes"


def test_too_few_probes_say_how_many(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"holds 1 probes, fewer than entropy.probe_count = 2"):
        load_probes(write(tmp_path, GOOD), 2)


def test_missing_file_and_wrong_encoding_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"nowhere\.jsonl cannot be read: No such file"):
        load_probes(tmp_path / "nowhere.jsonl", 2)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"prompt": "café"}'.encode("latin-1"))
    with pytest.raises(BadInputError, match="not UTF-8"):
        load_probes(latin, 1)
