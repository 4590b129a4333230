"""`reheatd reheat`: raises the served policy's entropy with TS-OPSD."""

from cli.job_command import job_command
from reheatd.jobs.contracts import ReheatRequest

reheat = job_command(
    ReheatRequest,
    "Reheat the served policy: train a new version towards softer logits, and swap it in if the gates pass.",
)
