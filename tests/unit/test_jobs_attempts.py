"""Attempts at a job: each has a folder of its own, and begins with what the one before it left."""

from pathlib import Path

from reheatd.jobs.attempts import begin_attempt, newest_attempt, of_attempt
from reheatd.jobs.contracts import RLSpec
from reheatd.jobs.curves import CurveWriter, read_curves
from tests.unit.workers_support import job_fields
from workers.checkpoint import Checkpoints


def make_spec(folder: Path) -> RLSpec:
    return RLSpec(**job_fields(folder))


def losses(spec: RLSpec) -> list[float]:
    return [point.metrics["loss"] for point in read_curves(spec.curves_file)]


def test_what_a_worker_writes_after_it_was_replaced_is_not_seen(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    dead = begin_attempt(spec, 1)
    asleep = CurveWriter(dead.curves_file)
    for step in (1, 2, 3):
        asleep.add(step, {"loss": 1.0})
    dead.checkpoint_file.write_bytes(b"after step 2")
    (dead.output_dir / "before.json").write_text("{}")
    (dead.output_dir / "candidates" / "shrink" / "result").mkdir(parents=True)
    (dead.output_dir / "candidates" / "shrink" / "result.json").write_text("finished")
    for half in ("result", "rollout-3", "report"):
        (dead.output_dir / half).mkdir()

    taken_over = begin_attempt(spec, 2)
    assert sorted(path.name for path in taken_over.output_dir.iterdir()) == [
        "before.json",
        "candidates",
        "checkpoint.pt",
        "curves.jsonl",
    ]
    assert (taken_over.output_dir / "candidates" / "shrink" / "result.json").read_text() == "finished"
    assert losses(newest_attempt(spec, 2)) == [1.0, 1.0, 1.0]
    successor = CurveWriter(taken_over.curves_file)
    successor.add(2, {"loss": 2.0})
    asleep.add(4, {"loss": 1.0})  # it wakes
    dead.checkpoint_file.write_bytes(b"after step 4")
    successor.add(3, {"loss": 2.0})
    assert losses(newest_attempt(spec, 2)) == [1.0, 2.0, 2.0]
    assert taken_over.checkpoint_file.read_bytes() == b"after step 2"


def test_an_attempt_that_has_not_begun_shows_the_one_before(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    CurveWriter(begin_attempt(spec, 1).curves_file).add(1, {"loss": 1.0})
    CurveWriter(begin_attempt(spec, 3).curves_file).add(2, {"loss": 3.0})
    assert newest_attempt(spec, 2) == of_attempt(spec, 1)
    assert newest_attempt(spec, 9) == of_attempt(spec, 3)


def test_a_job_of_an_earlier_version_is_read_and_resumed_from_its_own_folder(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    CurveWriter(spec.curves_file).add(1, {"loss": 1.0})
    assert losses(newest_attempt(spec, 1)) == [1.0]
    assert losses(begin_attempt(spec, 2)) == [1.0]


def test_an_attempt_that_was_claimed_twice_begins_anew(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    (begin_attempt(spec, 1).output_dir / "half").touch()
    assert not [*begin_attempt(spec, 1).output_dir.iterdir()]


def test_the_checkpoint_of_one_attempt_fits_the_next(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    digests = {Checkpoints(of_attempt(spec, number)).digest for number in (1, 2)}
    assert len(digests) == 1 and Checkpoints(spec.model_copy(update={"seed": 5})).digest not in digests
