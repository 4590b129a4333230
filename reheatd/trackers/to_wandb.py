"""The tracker `wandb`: a run of Weights & Biases for each job, in the group of the policy.

WANDB_MODE=offline writes runs to `FOLDER/wandb` alone; `wandb sync` uploads them. Rows have numbers that a resumed run
gives again, so that W&B drops those that it has.
"""

from collections.abc import Sequence

import wandb

from reheatd.trackers.metric_names import STEP
from reheatd.trackers.tracker import Outcome, Point, RunInfo, TrackerSetup


class WandbTracker:
    """Makes runs of Weights & Biases."""

    keeps = False  # another process of W&B's uploads them later

    def __init__(self, setup: TrackerSetup) -> None:
        setup.folder.mkdir(parents=True, exist_ok=True)
        self._setup = setup

    def begin(self, info: RunInfo) -> "WandbRun":
        run = wandb.init(
            project=self._setup.project,
            group=info.policy,
            job_type=info.kind,
            id=info.job_id,
            name=info.job_id,
            config=info.config,
            dir=self._setup.folder,
            resume="allow",
            reinit="create_new",  # the run of a job that waits for approval may be open, too
            settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True),
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        return WandbRun(run, info.job_id)


class WandbRun:
    """One run of Weights & Biases. It shows a row once the next one has begun."""

    def __init__(self, run: wandb.Run, job_id: str) -> None:
        self._run = run
        self._job_id = job_id

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log({STEP: point.step, **point.metrics}, step=point.row)

    def finish(self, outcome: Outcome) -> None:
        if outcome.report is not None:
            artifact = wandb.Artifact(f"report-{self._job_id}", type="report")
            artifact.add_dir(str(outcome.report))
            self._run.log_artifact(artifact)
            plots = {f"report/{plot.stem}": wandb.Image(str(plot)) for plot in outcome.report.glob("*.png")}
            self._run.log({STEP: outcome.step, **plots})
        self._run.summary.update(outcome.summary)
        self._run.finish(exit_code=int(outcome.is_failure))

    def pause(self) -> None:
        self._run.finish()
