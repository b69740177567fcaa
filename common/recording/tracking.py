"""From reports to rows: gradients, saturation, gradient death, freeze, stopping; defined in docs/algorithm.md#measures.

Never touches the learner. On the device it keeps a few counters per agent and the reports not yet fetched;
`collect` brings them to the host in bulk. Shapes: R runs, N agents, B samples, L layers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.agents.reports import EpisodeReport, RunKey, StepDetails
from common.environment.evaluation import Evaluation
from common.environment.mec_env import LOWEST_SHARE, OUTPUTS, MecEnv
from common.monitor import definitions
from common.recording import schema

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
FIRST_TRAINED_EPISODE = 2
PATIENCE = 100  # episodes a run goes on after all its actors froze
CHECK_EVERY = 10  # episodes between looks at whether runs are done


def is_logged(episode: int, log_every: int, actor_due: Callable[[int], bool]) -> bool:
    """Whether a training episode gets rows of gradient norms and saturation.

    Later ones are every `log_every`-th, or the last before it in which the actor's step was due.
    """
    if episode <= schema.ALWAYS_LOGGED:
        return episode >= FIRST_TRAINED_EPISODE
    scheduled = -(-episode // log_every) * log_every
    within = range(scheduled, scheduled - log_every, -1)
    return episode == next((e for e in within if actor_due(e)), scheduled)


@dataclass
class RunRecord:
    """All rows of one run so far: table name -> rows without the key columns."""

    key: RunKey
    tables: dict[str, list[list[float]]] = field(default_factory=dict)
    wall_seconds: float = 0.0

    def add(self, table: str, row: list[float]) -> None:
        """Append one row to `table`."""
        self.tables.setdefault(table, []).append(row)


def _mean(x: Tensor) -> Tensor:
    """Mean over all but the first dimension, in two stages so that the bits do not depend on R; float64."""
    return x.double().flatten(2).sum(-1).sum(-1) / math.prod(x.shape[1:])


def _spread(name: str, values: Tensor) -> dict[str, Tensor]:
    """Columns of mean, standard deviation, smallest and largest of a measure (R, N, …), each (R,)."""
    x = values.double() if values.ndim > 2 else values.double().unsqueeze(2)
    mean = _mean(x)
    sd = _mean((x - mean.view(-1, *[1] * (x.ndim - 1))).square()).sqrt()
    low, high = x.flatten(1).aminmax(dim=1)
    return {f"{name}_mean": mean, f"{name}_sd": sd, f"{name}_min": low, f"{name}_max": high}


def _agent_rms(figures: Tensor, due: Tensor | None = None) -> Tensor:
    """Root mean square over the agents whose step was due, (R, N, …) -> (R, …); NaN where none was. None: all were."""
    squares = figures.square()
    if due is None:
        return squares.mean(1).sqrt()
    counted = due.view(*due.shape, *[1] * (figures.ndim - due.ndim))
    return (torch.where(counted, squares, 0.0).sum(1) / counted.sum(1)).sqrt()


def gradient_columns(
    details: StepDetails,
    actor_layers: tuple[str, ...],
    critic_layers: tuple[str, ...],
    due: Tensor | None = None,
) -> dict[str, Tensor]:
    """Columns of gradient_norms.csv, each (R,).

    Actor figures are root mean squares over the agents whose step was `due` (R, N), by default all.
    """
    actor = _agent_rms(details.actor_gradients.square().sum(-1).sqrt(), due)
    critic = details.critic_gradients.square().sum(-1).sqrt()
    by_layer = _agent_rms(details.actor_gradients, due)
    return {
        "actor_gradient_norm": actor,
        "critic_gradient_norm": critic,
        "gradient_ratio": torch.where(critic > 0, actor / critic, torch.nan),
        **{f"actor_{layer}": by_layer[:, i] for i, layer in enumerate(actor_layers)},
        **{f"critic_{layer}": details.critic_gradients[:, i] for i, layer in enumerate(critic_layers)},
        "actor_update_norm": _agent_rms(details.actor_updates, due),
        "critic_update_norm": details.critic_updates,
        "actor_relative_step": _agent_rms(details.actor_updates / details.actor_weight_norms, due),
        "critic_relative_step": details.critic_updates / details.critic_weight_norms,
        "mean_abs_dq_da": _mean(details.dq_da.abs()),
        "actor_clipped_norm": _agent_rms(details.actor_clipped, due),
        "critic_clipped_norm": details.critic_clipped,
    }


def wrong_side_saturation(details: StepDetails, env: MecEnv) -> Tensor:
    """Share of saturated compute outputs whose bound is the worse of the two for their task, (R,); NaN without any."""
    compute = details.actions[..., 1]
    saturated = compute.abs() > definitions.SATURATED
    high, low = (env.local_cost(details.states, torch.full_like(compute, share)) for share in (1.0, LOWEST_SHARE))
    wrong = torch.where(compute > 0, high > low, low > high)
    counts = [x.flatten(1).sum(1).double() for x in (saturated & wrong, saturated)]
    return counts[0] / counts[1]


def alignment_columns(details: StepDetails, env: MecEnv) -> dict[str, Tensor]:
    """Cosine between the critic's dQ/da and the environment's own dr/da over batch and agents, by output, each (R,).

    NaN where one of them is 0 throughout. The slope of the reward is taken at the offloads of the noise-free actions.
    """
    reward = env.reward_slope(details.states, details.offloads, details.actions).double().flatten(1, 2)
    critic = details.dq_da.double().flatten(1, 2)
    cosine = (reward * critic).sum(1) / (reward.norm(dim=1) * critic.norm(dim=1))
    return {f"dq_da_alignment_{name}": cosine[:, i] for i, name in enumerate(OUTPUTS) if name != "offload"}


def saturation_columns(details: StepDetails, env: MecEnv, due: Tensor | None = None) -> dict[str, Tensor]:
    """Columns of saturation.csv, each (R,), over batch, agents and outputs of the noise-free actions.

    The step of z is that of the agents whose step was `due` (R, N), by default all.
    """
    actions, slope = details.actions, details.dq_da
    z = details.pre_activations.double()
    quantiles = torch.quantile(z.flatten(1), torch.tensor(QUANTILES, dtype=z.dtype, device=z.device), dim=1)
    derivative, zero = definitions.tanh_derivative(actions, dim=1), definitions.zero_derivative_share(actions, dim=1)
    columns = {
        "saturation_ratio": definitions.saturation_ratio(actions, dim=1),
        **{f"saturation_{x}": definitions.saturation_ratio(actions[..., i], dim=1) for i, x in enumerate(OUTPUTS)},
        "wrong_side_saturation": wrong_side_saturation(details, env),
        "stuck_share": definitions.stuck_share(actions, slope, dim=1),
        "bang_bang_share": definitions.bang_bang_share(actions, slope, dim=1),
        "tanh_derivative": derivative if details.has_tanh else torch.full_like(derivative, torch.nan),
        "zero_derivative_share": zero if details.has_tanh else torch.full_like(zero, torch.nan),
        "dq_da_sign_coherence": definitions.dq_da_sign_coherence(slope, dim=1),
        **alignment_columns(details, env),
        "z_step_rms": _agent_rms((details.z_after.double() - z).square().mean(3).mean(1).sqrt(), due),
        **_spread("z", z),
        **{f"z_q{round(100 * q):02d}": quantiles[i] for i, q in enumerate(QUANTILES)},
    }
    for name, values in details.extras.items():
        columns |= _spread(name, values)
    return columns


def _held_since(since: Tensor, ended: Tensor, counted: Tensor, episode: int) -> Tensor:
    """First episode of an unbroken row of steps, 0 where this step `ended` it; as before where it is not `counted`."""
    begun = torch.where(since == 0, episode, since)
    return torch.where(counted, torch.where(ended, 0, begun), since)


class Tracker:
    """Follows the runs of one shard from episode to episode."""

    def __init__(
        self,
        keys: list[RunKey],
        agents: int,
        env: MecEnv,
        layers: tuple[tuple[str, ...], tuple[str, ...]],
        device: torch.device,
        early_stop: bool,
    ):
        """`layers`: names of the actor's and of the critic's layers."""
        self.records = [RunRecord(key) for key in keys]
        self.env, self.layers, self.early_stop, self.agents = env, layers, early_stop, agents
        # Those of the logged tables become longer where a variant appends some.
        self.columns = {name: columns[len(schema.RUN_KEY) :] for name, columns in schema.FILES.items()}
        shape = (len(keys), agents)
        episodes = {"dtype": torch.int64, "device": device}
        self.dead_since = torch.zeros(shape, **episodes)  # 0: the gradient of the last step due was not zero
        self.frozen_since = torch.zeros(shape, **episodes)  # 0: the last step due changed something
        self.first_unchanged = torch.zeros(shape, **episodes)  # 0: never yet
        self.diverged_at = torch.zeros(len(keys), **episodes)  # 0: never yet
        self.first_side = torch.full((*shape, len(OUTPUTS)), torch.nan, dtype=torch.float64, device=device)
        self.last_side = self.first_side.clone()
        self._pending: defaultdict[str, list[tuple[int, Tensor]]] = defaultdict(list)  # table -> episode, values

    COUNTERS = ("dead_since", "frozen_since", "first_unchanged", "diverged_at", "first_side", "last_side")

    def observe(self, report: EpisodeReport) -> None:
        """Take in one training episode."""
        episode = report.episode
        rewards = torch.stack((report.training_return, report.late_share, report.drained_share), dim=1)
        self._pending[schema.REWARDS].append((episode, rewards))
        if report.step is None:
            return
        step = report.step
        # A step that was not due neither changed an agent nor left it as it was; one without numbers says nothing.
        due = step.changed | step.unchanged
        live = ((self.diverged_at == 0) & step.finite).unsqueeze(1)
        # torch.where, not masked assignment: that would make the host wait for a GPU.
        self.frozen_since = _held_since(self.frozen_since, step.changed, due & live, episode)
        self.dead_since = _held_since(self.dead_since, step.gradient_alive, due & live, episode)
        first = step.unchanged & live & (self.first_unchanged == 0)
        self.first_unchanged = torch.where(first, episode, self.first_unchanged)
        self.diverged_at = torch.where(~step.finite & (self.diverged_at == 0), episode, self.diverged_at)
        if report.details is not None:
            self._observe_details(episode, report.details, due, live)

    def _observe_details(self, episode: int, details: StepDetails, due: Tensor, live: Tensor) -> None:
        measured = {
            schema.GRADIENT_NORMS: gradient_columns(details, *self.layers, due),
            schema.SATURATION: saturation_columns(details, self.env, due),
        }
        for table, columns in measured.items():
            self.columns[table] = ("episode", *columns)
            self._pending[table].append((episode, torch.stack([x.double() for x in columns.values()], dim=1)))
        side = torch.where(live.unsqueeze(2), details.actions.sign().double().mean(1), self.last_side)
        self.first_side = torch.where(self.first_side.isnan(), side, self.first_side)
        self.last_side = side

    def observe_evaluation(self, episode: int, evaluation: Evaluation, positions: list[int] | None = None) -> None:
        """Take in an evaluation after training episode `episode` (0: before training), of some runs or all."""
        columns = [getattr(evaluation, name) for name in self.columns[schema.EVALUATIONS][1:]]
        for position, row in enumerate(torch.stack(columns, dim=1).tolist()):
            if positions is None or position in positions:
                self.records[position].add(schema.EVALUATIONS, [episode, *row])

    def collect(self) -> None:
        """Fetch pending rows to the host, one copy per table; rows after a run's divergence are dropped."""
        for table, pending in self._pending.items():
            fetched = torch.stack([values for _, values in pending]).tolist()
            for (episode, _), rows in zip(pending, fetched, strict=True):
                for record, row in zip(self.records, rows, strict=True):
                    record.add(table, [episode, *row])
        self._pending.clear()
        for record, end in zip(self.records, self.diverged_at.tolist(), strict=True):
            if end:
                record.tables = {t: [row for row in rows if row[0] <= end] for t, rows in record.tables.items()}

    def finished(self, episode: int, last: int) -> list[int]:
        """Positions of the runs that end after `episode`: at episode `last`, diverged, or long frozen."""
        if episode >= last:
            return list(range(len(self.records)))
        done = self.diverged_at > 0
        if self.early_stop:
            long = (self.frozen_since > 0) & (episode - self.frozen_since >= PATIENCE - 1)
            done |= long.all(1)
        return done.nonzero().flatten().tolist()

    def keep(self, positions: list[int]) -> None:
        """Go on with only the runs at these positions; call `collect` first."""
        self.records = [self.records[i] for i in positions]
        for name in self.COUNTERS:
            values = getattr(self, name)
            setattr(self, name, values[torch.tensor(positions, dtype=torch.int64, device=values.device)])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold; call `collect` first."""
        meta = {
            "runs": [{"tables": record.tables, "wall_seconds": record.wall_seconds} for record in self.records],
            "columns": self.columns,
        }
        return {f"tracker.{name}": getattr(self, name) for name in self.COUNTERS}, meta

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go on from `state` of a tracker of the same runs."""
        for name in self.COUNTERS:
            getattr(self, name).copy_(tensors[f"tracker.{name}"])
        for record, saved in zip(self.records, meta["runs"], strict=True):
            record.tables, record.wall_seconds = saved["tables"], saved["wall_seconds"]
        self.columns = {table: tuple(columns) for table, columns in meta["columns"].items()}

    def agent_rows(self, position: int) -> list[list[int | float | None]]:
        """Rows of stopping_episodes.csv of one run without its key; None where something never happened."""
        counters = (self.dead_since, self.first_unchanged, self.frozen_since)
        episodes = torch.stack([x[position] for x in counters], dim=1).tolist()
        sides = torch.cat([self.first_side[position], self.last_side[position]], dim=1).tolist()
        return [[i, *(x or None for x in episodes[i]), *sides[i]] for i in range(self.agents)]

    def summary(self, position: int, last: int, references: dict[str, float]) -> dict[str, Any]:
        """The run's row of runs.csv without key, names and versions.

        `references`: returns of the policies on this run's world; `last`: the last episode a run may have.
        """
        record, agents = self.records[position], self.agent_rows(position)
        deaths, stops, freezes = ([row[i] for row in agents if row[i] is not None] for i in (1, 2, 3))
        diverged = int(self.diverged_at[position]) or None
        (returns,) = self.recorded(position, schema.REWARDS, "training_return")
        evaluated, evaluations = self.recorded(position, schema.EVALUATIONS, "episode", "evaluation_return")
        ratio, wrong, *ends = self.recorded(
            position, schema.SATURATION, "saturation_ratio", "wrong_side_saturation", "z_min", "z_max"
        )
        heights = np.abs(np.concatenate(ends))
        final = None if diverged else float(evaluations[-1])
        best = float(max(evaluations[np.isfinite(evaluations)], default=math.nan))
        random, span = references["random"], references["greedy_offload"] - references["random"]
        early = schema.COMPLETED if len(returns) >= last else schema.STOPPED_EARLY
        return {
            "status": schema.DIVERGED if diverged else early,
            "diverged_episode": diverged,
            "stopping_episode": max(stops) if len(stops) == self.agents else None,
            "total_episodes": len(returns),
            "score_episode": None if diverged else int(evaluated[-1]),
            "frozen_share": len(freezes) / self.agents,
            "dead_share": len(deaths) / self.agents,
            "median_death_episode": float(np.median(deaths)) if deaths else None,
            "median_freeze_episode": float(np.median(freezes)) if freezes else None,
            "first_100_mean_return": float(returns[:100].mean()),
            "last_100_mean_return": float(returns[-100:].mean()),
            "first_evaluation_return": float(evaluations[0]),
            "final_evaluation_return": final,
            "best_evaluation_return": best,
            "normalised_score": None if diverged or span == 0 else (final - random) / span,
            "best_score": None if span == 0 else (best - random) / span,
            "drift": None if diverged or span == 0 else (best - final) / span,
            "final_saturation_ratio": float(ratio[-1]) if len(ratio) else None,
            "final_wrong_side_saturation": float(wrong[-1]) if len(wrong) else None,
            "largest_abs_preactivation": float(np.nanmax(heights)) if np.isfinite(heights).any() else None,
            "wall_seconds": record.wall_seconds,
        }

    def recorded(self, position: int, table: str, *names: str) -> list[np.ndarray]:
        """Columns of a run's rows so far, of those that `collect` has fetched."""
        rows = self.records[position].tables.get(table, [])
        return [np.array([row[self.columns[table].index(name)] for row in rows], dtype=float) for name in names]
