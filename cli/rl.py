"""`reheatd rl`: continues RL with verifiable rewards from the served policy."""

from cli.job_command import job_command
from reheatd.jobs.contracts import RLRequest

rl = job_command(RLRequest, "Continue RL from the served policy, and swap the new version in if the gates pass.")
