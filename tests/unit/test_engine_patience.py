"""How long an answer may take."""

import pytest

from reheatd.engine.patience import Patience


def test_long_answers_may_take_longer_as_engines_were_measured() -> None:
    patience = Patience()
    assert patience.seconds(32_768) > 3600  # nothing is known yet
    patience.learn(100, 2.0)
    assert patience.seconds(1000) == pytest.approx(10 * 1000 * 0.02)
    for _ in range(100):
        patience.learn(100, 4.0)
    assert patience.seconds(1000) == pytest.approx(10 * 1000 * 0.04, rel=0.01)


def test_an_answer_of_a_few_tokens_says_nothing_about_decoding() -> None:
    patience = Patience()
    patience.learn(100, 2.0)
    patience.learn(1, 60.0)
    assert patience.seconds(1000) == pytest.approx(200)
