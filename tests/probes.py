"""Probes of the bundled task."""

from reheatd.entropy.probes import ProbeSet, load_probes
from reheatd.options import TaskOptions, WindowOptions


def task_probes(count: int) -> ProbeSet:
    return load_probes(TaskOptions(), WindowOptions(probe_count=count))
