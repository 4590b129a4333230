"""What a request's body may hold: what JSON has, and text that a tokenizer can take."""

import json

import pytest

from reheatd.errors import BadInputError
from reheatd.gateway.request_body import parse_body


@pytest.mark.parametrize(
    "body",
    [
        {
            "model": "policy",
            "temperature": 0.5,
            "messages": [{"role": "user", "content": "caf\u00e9 \U0001f600 \\u0000"}],
        },
        {"prompt": "", "logit_bias": {}, "stop": None, "seed": 2**64 - 1, "least": -(2**63)},
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_good_bodies_are_read_as_they_are(body: object, escaped: bool) -> None:
    assert parse_body(json.dumps(body, ensure_ascii=escaped).encode()) == body


@pytest.mark.parametrize(
    ("raw", "param", "says"),
    [
        (b'{"temperature": NaN}', "body", "NaN"),
        (b'{"temperature": -Infinity}', "body", "-Infinity"),
        (b'{"logit_bias": {"5": 1e999}}', "body", "1e999, which is too large"),
        (rb'{"messages": [{"role": "user", "content": "a\ud800b"}]}', "messages[0].content", r"\ud800, half of a"),
        (rb'{"messages": [{"role": "user", "content": "a\u0000b"}]}', "messages[0].content", "null character"),
        (rb'{"metadata": {"a\udfff": 1}}', "metadata", r"\udfff, half of a"),
        (rb'{"\u0000": 1}', "body", "null character"),
        (b"\xff", "body", "not valid JSON"),
        (b'{"prompt": "a\xed\xa0\x80b"}', "body", "not valid JSON"),
        ('{"prompt": "a\\ud800b"}'.encode("utf-16"), "body", "not valid JSON"),
        (b'{"top_k": 18446744073709551616}', "top_k", "more than 64 bits"),
        (b'{"stop_token_ids": [1, -9223372036854775809]}', "stop_token_ids[1]", "more than 64 bits"),
        (b'{"top_k": ' + b"9" * 5000 + b"}", "body", "not valid JSON"),
        (b"[" * 100_000, "body", "not valid JSON"),
        (b"[1]", "body", "must be a JSON object, got list"),
        (b"", "body", "not valid JSON"),
    ],
)
def test_what_no_engine_can_take_is_refused_with_its_place(raw: bytes, param: str, says: str) -> None:
    with pytest.raises(BadInputError) as refused:
        parse_body(raw)
    assert refused.value.param == param
    assert says in refused.value.message
    assert refused.value.message.isprintable()
