"""A daemon that has measured and counted everything that there is a metric for."""

from pathlib import Path

from prometheus_client import ProcessCollector, disable_created_metrics
from prometheus_client.parser import text_string_to_metric_families

from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.live import LiveWindow
from reheatd.metrics.probes import ProbeMetrics
from reheatd.metrics.swaps import SwapMetrics
from reheatd.metrics.traffic import Traffic
from tests.unit.api_support import ApiWorld, Client, talk
from tests.unit.control_figures import entropy, window
from tests.unit.test_gateway import CHAT

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
LEARNED = {
    "groups": 4.0,
    "groups_varied": 1.0,
    "groups_all_fail": 3.0,
    "groups_all_pass": 0.0,
    "reward": 0.25,
    "grad_norm": 1.5,
}
"""What a step of RL reports."""


class FullWorld(ApiWorld):
    """The stand-ins behind the API, after some traffic, a swap, a window and a step of RL."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, trackers={"names": ["mlflow"]})
        self.census = 1
        disable_created_metrics()  # as the daemon does
        self.traffic = Traffic(self.registry)
        self.swaps_seen = SwapMetrics(self.registry)
        self.probes_seen = ProbeMetrics(self.registry)
        ProcessCollector(registry=self.registry)

    def happen(self) -> None:
        """Lets everything happen once more; called after `app`."""
        self.series.append(window(0, "warning", 1.9), TailMoments())
        self.live.append(
            LiveWindow(version="policy-v0", source="live", measured_by="tap", estimate=entropy(1.5), by_position=[])
        )
        self.learning.add("rl-1", 0, 1, LEARNED)
        self.swaps_seen.promoted(0.4)
        self.swaps_seen.proved(0.1, 34)
        self.probes_seen.measured(4.5, 1500)
        watch = self.traffic.begin(CHAT)
        watch.status, watch.version = "200", "policy-v0"
        for _ in range(3):
            watch.feed(b"data: {}\n\n")
        watch.close()
        for replica in self.pool.replicas:
            with replica.occupied("probe"):
                pass


def full_scrape(folder: Path, accept: str = "") -> str:
    """What such a daemon answers at /metrics."""
    texts: list[str] = []

    async def story(client: Client, world: ApiWorld) -> None:
        assert isinstance(world, FullWorld)
        world.happen()
        texts.append((await client.get("/metrics", headers={"accept": accept})).text)

    talk(FullWorld(folder), story)
    return texts[0]


def exposed_names(folder: Path) -> set[str]:
    """The names that a query may have."""
    names: set[str] = set()
    for family in text_string_to_metric_families(full_scrape(folder)):
        total = "_total" if family.type == "counter" and not family.name.endswith("_total") else ""
        names |= {f"{family.name}{suffix}" for suffix in SUFFIXES.get(family.type, (total,))}
    return names
