"""What a Prometheus scrape reads of the daemon's state."""

import io
import re
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read
from rich.console import Console

from cli.status_facts import status_facts
from reheatd.api.schemas import StatusView
from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.windows import LiveWindow
from reheatd.jobs.contracts import RLRequest
from reheatd.jobs.store import JobReader
from reheatd.trackers.progress import ProgressFile, progress_file
from tests.unit.api_support import ApiWorld, Client, talk
from tests.unit.control_figures import BASELINE, entropy, window
from tests.unit.control_support import FakeMonitor
from tests.unit.metrics_support import LEARNED, full_scrape

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in read(text)
        for sample in family.samples
    }


def series(found: Samples, name: str) -> dict[tuple[str, ...], float]:
    """Values by labels' values, in the order of the labels' names."""
    return {tuple(value for _, value in labels): number for (own, labels), number in found.items() if own == name}


def test_a_scrape_reads_the_state_of_every_part(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        world.census = 2
        world.series.append(window(0, "warning", 1.9), TailMoments())
        live = LiveWindow(version="policy-v0", source="live", measured_by="tap", estimate=entropy(1.5), by_position=[])
        world.live.append(live)
        world.controller.submit(RLRequest())
        Counter("reheatd_things", "Things.", registry=world.registry).inc(3)
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        found = samples(answer.text)
        policy = {"policy": world.settings.policy.model, "version": "policy-v0"}
        assert found["reheatd_policy_info", tuple(policy.items())] == 1
        assert found["reheatd_ready", ()] == 1
        assert series(found, "reheatd_verdict") == {
            ("ok",): 0, ("warning",): 1, ("collapsed",): 0, ("too_hot",): 0, ("stalled",): 0
        }  # fmt: skip
        states = series(found, "reheatd_state")
        assert states["serving",] == 1 and sum(states.values()) == 1
        # Labels are in the order of their names: measured_by, source, version.
        probed, tapped = ("control_variate", "probe", "policy-v0"), ("tap", "live", "policy-v0")
        assert series(found, "reheatd_entropy_nats_per_token") == {probed: 1.9, tapped: 1.5}
        lows = series(found, "reheatd_entropy_low_nats_per_token")
        assert lows == {probed: window(0, "warning", 1.9).estimate.low, tapped: entropy(1.5).low}
        assert found["reheatd_entropy_baseline_nats_per_token", ()] == BASELINE
        assert found["reheatd_entropy_baseline_high_nats_per_token", ()] == entropy(BASELINE).high
        assert found["reheatd_entropy_baseline_ratio", ()] == window(0, "warning", 1.9).ratio
        assert found["reheatd_entropy_measurable", ()] == 0  # the model has no chat template
        jobs = series(found, "reheatd_jobs")
        assert jobs["rl", "queued"] == 1 and sum(jobs.values()) == 1
        assert jobs["reheat", "failed"] == 0  # there from the beginning, so that the first failure is a rise
        limits = FakeMonitor().thresholds
        assert limits is not None
        found_limits = series(found, "reheatd_entropy_threshold_nats_per_token")
        assert found_limits["collapsed",] == limits.collapsed and found_limits["warning",] == limits.warning
        assert series(found, "reheatd_engine_up") == {("engine-1",): 1, ("engine-2",): 1}
        assert found["reheatd_broker_up", ()] == 0
        assert found["reheatd_workers", ()] == 2
        assert found["reheatd_jobs_waiting", ()] == 1
        assert found["reheatd_things_total", ()] == 3
        busy = series(found, "reheatd_engine_busy_seconds_total")
        assert busy == {(f"engine-{number}", who): 0 for number in (1, 2) for who in ("client", "job", "probe")}

    talk(ApiWorld(tmp_path), story)


def test_a_scrape_and_the_status_say_which_trackers_take_what_is_sent(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        jobs = JobReader(world.settings.database_path)
        noted = ProgressFile(progress_file(world.settings.data_dir, "mlflow"), jobs)
        noted.progress.problem = "ImportError: no module named that"
        noted.save()
        found = samples((await client.get("/metrics")).text)
        assert series(found, "reheatd_tracker_up") == {("mlflow",): 0, ("wandb",): 1}
        status = StatusView.model_validate((await client.get("/reheatd/v1/status")).json())
        assert [(tracker.name, tracker.ok, tracker.detail) for tracker in status.trackers] == [
            ("mlflow", False, "ImportError: no module named that"),
            ("wandb", True, "starts"),
        ]
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(status_facts(status))
        (row,) = [line for line in console.export_text().splitlines() if "mlflow" in line]
        assert row.split() == [
            "trackers",
            "mlflow",
            "down",
            "(ImportError:",
            "no",
            "module",
            "named",
            "that)",
            "wandb",
            "ok",
            "(starts)",
        ]

    talk(ApiWorld(tmp_path, trackers={"names": ["mlflow", "wandb"]}), story)


def test_a_scraper_that_knows_openmetrics_gets_it(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        answer = await client.get("/metrics", headers={"accept": OPENMETRICS})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert {"reheatd_verdict", "reheatd_broker_up"} <= {family.name for family in read_openmetrics(answer.text)}

    talk(ApiWorld(tmp_path), story)


def test_what_was_never_measured_has_no_series(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        found = samples((await client.get("/metrics")).text)
        names = {name for name, _ in found}
        assert "reheatd_entropy_nats_per_token" not in names and "reheatd_entropy_baseline_ratio" not in names
        assert "reheatd_rollout_groups" not in names

    talk(ApiWorld(tmp_path), story)


def test_the_learning_signal_of_the_present_run_is_shown(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        world.learning.add("rl-1", 0, 1, LEARNED)
        world.learning.add("rl-1", 0, 2, LEARNED | {"reward": 0.75})
        found = samples((await client.get("/metrics")).text)
        assert series(found, "reheatd_rollout_groups") == {
            ("all",): 4,
            ("varied",): 1,
            ("all_fail",): 3,
            ("all_pass",): 0,
        }
        assert found["reheatd_rl_steps", ()] == 2
        assert found["reheatd_rollout_reward", ()] == 0.5
        assert found["reheatd_gradient_norm", ()] == 1.5

    talk(ApiWorld(tmp_path), story)


def test_the_docs_name_every_metric_and_no_other(tmp_path: Path) -> None:
    names = {family.name for family in read_openmetrics(full_scrape(tmp_path, OPENMETRICS))}
    documented = set(re.findall(r"`(reheatd_\w+)`", (Path(__file__).parents[2] / "docs/metrics.md").read_text()))
    own = {name for name in names if name.startswith("reheatd_")}
    assert {name.removesuffix("_total").removesuffix("_info") for name in documented} == own
