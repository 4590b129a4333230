"""Grafana's dashboard: it shows metrics that there are, in panels that do not cover each other."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.prometheus import DASHBOARD, ROOT, dashboard_queries
from tests.unit.metrics_support import exposed_names

BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text())
PROVISIONING = ROOT / "docker/grafana/provisioning"


def test_the_queries_name_metrics_that_there_are(tmp_path: Path) -> None:
    queries = " ".join(itertools.chain(*dashboard_queries().values()))
    assert "$" not in queries
    assert set(re.findall(r"\b(?:reheatd|process)_\w+", queries)) <= exposed_names(tmp_path)


def test_every_metric_is_shown(tmp_path: Path) -> None:
    queries = " ".join(itertools.chain(*dashboard_queries().values()))
    shown = set(re.findall(r"\breheatd_\w+", queries))
    for name in exposed_names(tmp_path):
        if name.startswith("reheatd_"):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert any(each == name or re.sub(r"_(bucket|sum|count)$", "", each) == base for each in shown), name


def test_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_panels_have_titles_ids_and_queries_of_their_own() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] != "row":
            letters = [target["refId"] for target in panel["targets"]]
            assert letters == [chr(ord("A") + index) for index in range(len(letters))] and letters
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_what_is_provisioned_is_where_compose_mounts_it() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/reheatd.yml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    mounted = dict(entry.split(":")[:2] for entry in services["grafana"]["volumes"])
    assert mounted["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounted["./docker/grafana/dashboards"] == provider["options"]["path"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    scraped = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    targets = [job["static_configs"][0]["targets"] for job in scraped["scrape_configs"]]
    assert [each for (each,) in targets] == ["reheatd:8000", "engine:8100"]
