"""Compares the settings of TS-OPSD, and measures how near LoRA comes to the exact solution.

    python -m examples.countdown.reheating

With the frozen teacher and forward KL the exact solution is known: the final norm divided by tau. Every setting is
judged by its distance from that solution, in the states that the student visits on held-out problems. Run `make
experiment` first, because this starts from one of its policies.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.figures import RESULTS, Report
from examples.countdown.arms import job_fields, training_problems
from examples.countdown.experiment import DOCS, PAGES, REHEATING, write_tables
from examples.countdown.measuring import GREEDY
from examples.countdown.plan import FULL
from examples.countdown.policy import LORA, load_policy
from examples.countdown.runs import Run, Runs, in_parallel
from examples.countdown.stages import Stages
from examples.countdown.task import COMPLETION_TOKENS, WordCodec, problems, reward
from reheatd.jobs.contracts import ReheatSpec
from reheatd.options import LoraOptions
from workers.evaluation import evaluation_batch, measure_accuracy
from workers.losses import chunked_divergence
from workers.policy import Policy, TokenBatch
from workers.rewards.scoring import InProcessScorer
from workers.sampling.in_process import InProcessSampler
from workers.sampling.rollout import Rollout
from workers.ts_opsd import Reheater

START = "wide"
"""The collapse of the experiment whose policy is the parent."""
START_SEED = FULL.seeds[0]
GROUP_SIZE = 16
TAU = 1.5
STEPS = 40
RANKS = (1, 4, 16, 64)
RANK_STEPS = 400
SEEDS = range(3)
HELD_OUT = 384


@dataclass(frozen=True)
class Trial:
    """One TS-OPSD run, with the settings that differ from a frozen teacher with fresh rollouts every four steps."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    """Number of steps; with 0, nothing is trained."""
    fold: float = 1.0
    """The temperature folded into the final norm of the parent."""
    rank: int | None = None
    """Rank of a new adapter on the pretrained policy; None continues from the collapsed policy's adapter."""

    def __hash__(self) -> int:
        return hash(self.name)


TRIALS = [
    Trial("collapsed policy", steps=0),
    Trial("exact fold", steps=0, fold=TAU),
    Trial("default"),
    *(Trial(f"divergence {kind}", {"divergence": kind}) for kind in ("reverse_kl", "jsd")),
    *(Trial(f"refresh_every {steps}", {"refresh_every": steps}) for steps in (1, 2, 8, 20, 40)),
    *(Trial(f"learning_rate {rate:g}", {"learning_rate": rate}) for rate in (3e-4, 3e-3)),
    Trial("min_p 0.02", {"min_p": 0.02}),
    *(
        Trial(f"teacher live, learning_rate {rate:g}", {"teacher": "live", "tau": None, "learning_rate": rate})
        for rate in (1e-3, 1e-4)
    ),
    *(Trial(f"rank {rank}", steps=RANK_STEPS, rank=rank) for rank in RANKS),
]


class Reached(NamedTuple):
    """Figures after the run, on held-out problems."""

    kl: float
    """KL(exact fold || student), in nats per token."""
    entropy: float
    greedy: float
    pass1: float
    varied: float
    """Share of groups of `GROUP_SIZE` completions whose rewards differ, which are those that RL learns from."""
    steps: float


class Silent:
    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        pass


def main() -> None:
    folder = RESULTS / FULL.name
    Stages(FULL, folder, START_SEED).pretrain()
    Runs(folder, FULL).perform([Run("collapse", START_SEED, START)])
    work = partial(run, folder=folder)
    results: dict[Trial, list[Reached]] = {trial: [] for trial in TRIALS}
    for (trial, seed), reached in in_parallel(work, [(trial, seed) for trial in TRIALS for seed in SEEDS]):
        print(f"{trial.name}, seed {seed}: {reached.kl:.4f} nats from the exact fold", flush=True)
        results[trial].append(reached)
    report = Report("reheating")
    for trial, reached in results.items():
        for figure, values in zip(Reached._fields, zip(*reached, strict=True), strict=True):
            report.result(f"{figure}_{trial.name.replace(',', '').replace(' ', '_')}", statistics.fmean(values))
    report.write(tau=TAU, seeds=len(SEEDS))
    (DOCS / FULL.name / REHEATING).write_text("\n".join(_table(results)) + "\n")
    write_tables(FULL, DOCS / FULL.name, PAGES)


def run(item: tuple[Trial, int], folder: Path) -> Reached:
    trial, seed = item
    parent = None if trial.rank else folder / f"{START}-{START_SEED}"
    lora = LoraOptions(rank=trial.rank, alpha=2 * trial.rank) if trial.rank else LORA
    policy = load_policy(folder / f"pretrained-{START_SEED}", parent, tau=trial.fold, lora=lora, seed=seed)
    held_out = problems(HELD_OUT, "held_out", seed=0)
    sampler = InProcessSampler(
        policy, WordCodec(), [problem.messages for problem in held_out], probe_tokens=COMPLETION_TOKENS
    )
    trained = 0
    if trial.steps:
        settings = {"teacher": "frozen", "tau": TAU, "steps": trial.steps, "refresh_every": 4} | trial.settings
        if settings.get("teacher") == "live":
            settings["target_entropy"] = _fold_entropy(folder, parent)
        spec = ReheatSpec(
            **job_fields(seed), **settings, prompts_per_step=FULL.remedies.prompts, max_tokens=COMPLETION_TOKENS
        )
        prompts = [problem.messages for problem in training_problems(seed)]
        trained = Reheater(policy, spec, sampler, prompts, Silent()).run().steps
    greedy = measure_accuracy(
        sampler, held_out, InProcessScorer(reward), evaluation_batch(held_out, GREEDY, COMPLETION_TOKENS, seed=0)
    )
    asked = [problem.messages for problem in held_out]
    groups = sampler.sample(asked, n=GROUP_SIZE, max_tokens=COMPLETION_TOKENS, temperature=1.0, seed=2)
    rewards = [[reward(r.text, problem.answer) for r in group] for problem, group in zip(held_out, groups, strict=True)]
    return Reached(
        kl=_distance(policy, groups, TAU / trial.fold),
        entropy=sampler.measure_entropy(1).mean,
        greedy=greedy.value,
        pass1=statistics.fmean(map(statistics.fmean, rewards)),
        varied=statistics.fmean(len(set(group)) > 1 for group in rewards),
        steps=trained,
    )


@torch.no_grad()
def _distance(policy: Policy, groups: Sequence[list[Rollout]], tau: float) -> float:
    """KL(parent at temperature tau || student), in nats per token, in the states that the student visited."""
    sequences = [(rollout.prompt_ids, rollout.token_ids) for group in groups for rollout in group]
    batch = TokenBatch.build(sequences, policy.device)
    with policy.as_teacher():
        parent_TD = policy.hidden(batch)
    kl_T, _, _ = chunked_divergence(
        policy.hidden(batch), policy.head_VD, tau=tau, kind="forward_kl", teacher_TD=parent_TD
    )
    return float(kl_T.mean())


def _fold_entropy(folder: Path, parent: Path | None) -> float:
    fold = load_policy(folder / f"pretrained-{START_SEED}", parent, tau=TAU)
    probes = [problem.messages for problem in problems(HELD_OUT, "held_out", seed=0)]
    return InProcessSampler(fold, WordCodec(), probes, probe_tokens=COMPLETION_TOKENS).measure_entropy(0).mean


def _table(results: dict[Trial, list[Reached]]) -> Iterator[str]:
    yield "| | KL to the exact fold | entropy | greedy | pass@1 | groups that vary | steps |"
    yield "|---|---|---|---|---|---|---|"
    for trial, reached in results.items():
        mean = Reached(*(statistics.fmean(values) for values in zip(*reached, strict=True)))
        yield (
            f"| {trial.name} | {mean.kl:.4f} | {mean.entropy:.3f} | {mean.greedy:.3f} | {mean.pass1:.3f} "
            f"| {mean.varied:.3f} | {mean.steps:.0f} |"
        )


if __name__ == "__main__":
    main()
