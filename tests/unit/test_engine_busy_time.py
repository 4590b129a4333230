"""What an engine's time was spent on."""

from reheatd.engine.busy_time import BusyTime


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_requests_in_flight_share_the_time_equally() -> None:
    clock = Clock()
    busy = BusyTime(clock)
    clock.now += 5  # nobody asks
    busy.begin("probe")
    clock.now += 2
    busy.begin("client")
    busy.begin("client")
    clock.now += 3  # a third for the probe
    busy.end("probe")
    clock.now += 1
    assert busy.seconds() == {"client": 3.0, "job": 0.0, "probe": 3.0}
    busy.end("client")
    busy.end("client")
    clock.now += 7
    assert sum(busy.seconds().values()) == 6.0
