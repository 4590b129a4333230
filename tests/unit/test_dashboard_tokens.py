"""Degrees of tokens' figures, and what is shown of a token."""

import pytest

from reheatd.dashboard.tokens import EDGES, Token, degree, legend


def test_degrees_rise_with_the_figure_and_the_legend_names_each() -> None:
    assert [degree(value) for value in (0.0, *EDGES, 100.0)] == [0, *range(1, 10), 9]
    named = legend()
    assert [number for number, _ in named] == list(range(10))
    assert named[0][1] == "below 0.02" and named[-1][1] == "from 4"


@pytest.mark.parametrize(("text", "shown"), [(" a", " a"), ("\n", "↵\n"), ("", "·"), ("a\nb", "a↵\nb")])
def test_a_token_shows_where_a_line_ends_and_that_it_is_there(text: str, shown: str) -> None:
    assert Token(text, entropy=0.1, logprob=-0.2, likeliest=[]).shown == shown


def test_a_token_is_coloured_by_its_state_or_by_how_rare_it_was() -> None:
    token = Token("a", entropy=0.01, logprob=-5.0, likeliest=[])
    assert (token.degree("entropy"), token.degree("logprob")) == (0, 9)
    assert token.figures == "entropy 0.01, log-probability -5 nats"
