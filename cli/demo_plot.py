"""Plots the demonstration's timeline: entropy windows, versions and the client's latencies."""

from pathlib import Path

from reheatd.entropy.windows import Window


def plot_timeline(
    file: Path,
    *,
    started: float,
    windows: list[Window],
    baseline: float,
    threshold: float | None,
    target: float,
    promotions: list[tuple[float, str]],
    latencies: list[tuple[float, float]],
) -> None:
    """Writes the timeline as a PNG.

    Args:
        started: Time of the first axis tick, in seconds since the epoch; all other times are on the same clock.
        threshold: Entropy below which a policy has collapsed, in nats per token; None if it is not known.
        promotions: The time at which each version went live, with the version's name.
        latencies: For each of the client's answers, the time at which it ended and the seconds it took.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 6.5), sharex=True, height_ratios=[3, 1])
    for version in sorted({window.version for window in windows}):
        own = [window for window in windows if window.version == version]
        means = [window.estimate.mean for window in own]
        below = [window.estimate.mean - window.estimate.low for window in own]
        above = [window.estimate.high - window.estimate.mean for window in own]
        times = [window.time - started for window in own]
        top.errorbar(times, means, yerr=[below, above], fmt="o-", capsize=3, label=f"policy-v{version}")
    top.axhline(baseline, color="grey", linewidth=1, label="baseline")
    top.axhline(target, color="tab:green", linestyle="--", linewidth=1, label="reheat target")
    if threshold is not None:
        top.axhline(threshold, color="tab:red", linestyle="--", linewidth=1, label="collapse threshold")
    for when, name in promotions:
        for axis in (top, bottom):
            axis.axvline(when - started, color="black", linewidth=0.8, alpha=0.5)
        top.annotate(
            f"{name} live", (when - started, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=8
        )
    top.set_ylabel("entropy, nats per token")
    top.set_ylim(bottom=0)
    top.legend(loc="upper right", fontsize=8, ncols=2)
    bottom.plot([when - started for when, _ in latencies], [seconds for _, seconds in latencies], ".", markersize=3)
    bottom.set_ylabel("client: s per answer")
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel("seconds since the daemon was started")
    figure.suptitle("Collapse, detection, reheat and continued RL on a served policy", y=0.98)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
