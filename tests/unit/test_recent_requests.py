"""What people see of clients' requests: those of the last minute."""

from reheatd.metrics.recent import MOST_REQUESTS, PERIOD_S, Recent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_the_last_minute_counts() -> None:
    clock = Clock()
    recent = Recent(clock)
    assert recent.figures().per_second == 0 and recent.figures().seconds_p50 is None
    recent.add(60.0, None)
    clock.now += PERIOD_S / 2
    for tenths in range(1, 11):
        recent.add(tenths / 10, tenths / 100)
    figures = recent.figures()
    assert figures.per_second == 11 / PERIOD_S
    assert (figures.seconds_p50, figures.first_token_seconds_p50) == (0.6, 0.055)
    clock.now += PERIOD_S / 2 + 1
    figures = recent.figures()
    assert figures.per_second == 10 / PERIOD_S and figures.seconds_p50 == 0.55
    assert figures.seconds_p95 is not None and 0.9 < figures.seconds_p95 < 1
    clock.now += PERIOD_S
    assert recent.figures().seconds_p95 is None


def test_the_rate_is_right_where_not_all_requests_are_remembered() -> None:
    clock = Clock()
    recent = Recent(clock)
    for _ in range(2 * MOST_REQUESTS):
        clock.now += 0.001
        recent.add(0.5, None)
    assert round(recent.figures().per_second) == 1000
