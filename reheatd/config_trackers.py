"""The table `trackers` of the configuration: where the curves of jobs go besides the daemon's own files."""

from pathlib import Path

from pydantic import Field, model_validator

from reheatd.options import Options


class TrackersSection(Options):
    names: list[str] = Field(default=[])
    """Experiment trackers that get every job as a run: `tensorboard`, `wandb`, `mlflow`, `trackio`, or another that is
    installed. Keys and servers come from each tracker's own environment variables. Default: none."""
    project: str = Field(default="reheatd", min_length=1)
    """Project of W&B and of trackio."""
    folder: Path | None = None
    """Folder of the files of TensorBoard, of W&B and, if it has no other store, of MLflow. Default: `runs` in
    `data_dir`."""
    mlflow_uri: str | None = Field(default=None, repr=False)
    """MLflow's store: the URL of a server, or sqlite:///FILE. Default: what MLFLOW_TRACKING_URI says, or else a file of
    SQLite in `folder`."""

    @model_validator(mode="after")
    def _each_once(self) -> "TrackersSection":
        twice = [name for name in dict.fromkeys(self.names) if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"names has {', '.join(twice)} twice; name each tracker once")
        return self
