"""Checkpoints of a job, from which it continues after its worker died.

A checkpoint is taken between two steps, where the state of the loop is complete. The resumed run samples everything
after that again, with the same seeds, so with an exact sampler it ends with the same weights. Rollouts that were
sampled ahead are the exception: the resumed run samples their problems again from the student that it resumes with.
"""

import hashlib
import io
import pickle
from typing import Any

import torch

from reheatd.errors import CheckpointError
from reheatd.files import write_atomically
from reheatd.jobs.contracts import JobBase
from workers.policy import Policy


class Checkpoints:
    """The newest checkpoint of the job `spec`, in its folder."""

    def __init__(self, spec: JobBase) -> None:
        self.file = spec.checkpoint_file
        # Every attempt at the job has a folder of its own.
        self.digest = hashlib.sha256(spec.model_dump_json(exclude={"output_dir"}).encode()).hexdigest()

    def save(self, policy: Policy, optimizer: torch.optim.Optimizer, loop: dict[str, Any]) -> None:
        """Writes the checkpoint in place of the one before.

        Args:
            loop: What the training loop needs to continue, as JSON values.
        """
        content = io.BytesIO()
        torch.save(
            {
                "spec": self.digest,
                "student": [weight.detach() for weight in policy.parameters()],
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "loop": loop,
            },
            content,
        )
        write_atomically(self.file, content.getvalue())

    def restore(self, policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Restores student, optimiser and random state, and returns `loop`; None if there is no checkpoint.

        Raises:
            CheckpointError: The file is damaged, or belongs to a job with another specification.
        """
        if not self.file.exists():
            return None
        try:
            saved = torch.load(self.file, map_location=policy.device, weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"checkpoint {self.file} cannot be read ({error}); delete it to train from the start"
            ) from error
        if saved["spec"] != self.digest:
            raise CheckpointError(
                f"checkpoint {self.file} belongs to a job with another specification; delete it to train from the start"
            )
        with torch.no_grad():
            for weight, value in zip(policy.parameters(), saved["student"], strict=True):
                weight.copy_(value)
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"].cpu())
        return saved["loop"]
