"""Sealed datagrams: what is opened, and what is not."""

import pytest

from reheatd.tap.seal import MAX_AGE_S, Opener, Sealer, UnsealedError


def test_what_was_sealed_is_opened_whoever_of_several_sends_it() -> None:
    opener = Opener("key")
    for sender in (Sealer("key"), Sealer("key")):
        assert [opener.open(sender.seal(content)) for content in (b"one", b"", b"three")] == [b"one", b"", b"three"]


def test_not_one_bit_may_change() -> None:
    datagram = Sealer("key").seal(b"content")
    for place in range(len(datagram)):
        changed = bytearray(datagram)
        changed[place] ^= 1
        with pytest.raises(UnsealedError, match="not sent with this daemon's key"):
            Opener("key").open(bytes(changed))
    for length in range(len(datagram)):
        with pytest.raises(UnsealedError):
            Opener("key").open(datagram[:length])


def test_another_key_opens_nothing() -> None:
    with pytest.raises(UnsealedError, match="key"):
        Opener("key").open(Sealer("another").seal(b"content"))


def test_nothing_is_opened_twice_or_after_a_later_one() -> None:
    sealer, opener = Sealer("key"), Opener("key")
    first, second = sealer.seal(b"1"), sealer.seal(b"2")
    assert opener.open(second) == b"2"
    for datagram in (second, first):
        with pytest.raises(UnsealedError, match="before"):
            opener.open(datagram)


def test_an_old_datagram_is_refused_even_by_a_daemon_that_has_just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    monkeypatch.setattr("time.time", lambda: now)
    sealer = Sealer("key")
    datagram = sealer.seal(b"content")
    assert Opener("key").open(datagram) == b"content"
    now += MAX_AGE_S + 1
    with pytest.raises(UnsealedError, match="301 s old"):
        Opener("key").open(datagram)
    assert Opener("key").open(sealer.seal(b"content")) == b"content"
