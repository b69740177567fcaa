"""From reports to rows: gradients, saturation, gradient death, freeze, stopping (SYSTEM section 4).

Never touches the learner. On the device it keeps a few counters per agent and the reports not yet fetched;
`collect` brings them to the host in bulk. Shapes: R runs, N agents, B samples, L layers.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.agents.reports import EpisodeReport, RunKey, StepDetails
from common.environment.evaluation import Evaluation
from common.environment.mec_env import LOWEST_SHARE, MecEnv
from common.recording import schema

SATURATED = 0.9  # |tanh z| above this counts as saturated
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
FIRST_TRAINED_EPISODE = 2
PATIENCE = 100  # episodes a run goes on after all its actors froze
CHECK_EVERY = 10  # episodes between looks at whether runs are done


@dataclass
class RunRecord:
    """All rows of one run so far: table name -> rows without the key columns."""

    key: RunKey
    tables: dict[str, list[list[float]]] = field(default_factory=dict)
    wall_seconds: float = 0.0

    def add(self, table: str, row: list[float]) -> None:
        """Append one row to `table`."""
        self.tables.setdefault(table, []).append(row)

    def column(self, table: str, columns: tuple[str, ...], name: str) -> np.ndarray:
        """One column of `table`, whose columns after the key are `columns`."""
        return np.array([row[columns.index(name)] for row in self.tables.get(table, [])], dtype=float)


def _mean(x: Tensor) -> Tensor:
    """Mean over all but the first dimension, in two stages so that the bits do not depend on R; float64."""
    return x.double().flatten(2).sum(-1).sum(-1) / math.prod(x.shape[1:])


def _agent_rms(norms: Tensor) -> Tensor:
    """Root mean square over agents, (R, N, …) -> (R, …)."""
    return norms.square().mean(1).sqrt()


def gradient_columns(
    details: StepDetails, actor_layers: tuple[str, ...], critic_layers: tuple[str, ...]
) -> dict[str, Tensor]:
    """Columns of gradient_norms.csv, each (R,); actor figures are root mean squares over agents."""
    actor = _agent_rms(details.actor_gradients.square().sum(-1).sqrt())
    critic = details.critic_gradients.square().sum(-1).sqrt()
    by_layer = _agent_rms(details.actor_gradients)
    return {
        "actor_gradient_norm": actor,
        "critic_gradient_norm": critic,
        "gradient_ratio": torch.where(critic > 0, actor / critic, torch.nan),
        **{f"actor_{layer}": by_layer[:, i] for i, layer in enumerate(actor_layers)},
        **{f"critic_{layer}": details.critic_gradients[:, i] for i, layer in enumerate(critic_layers)},
        "actor_update_norm": _agent_rms(details.actor_updates),
        "critic_update_norm": details.critic_updates,
        "mean_abs_dq_da": details.action_slope,
        "actor_clipped_norm": _agent_rms(details.actor_clipped),
        "critic_clipped_norm": details.critic_clipped,
    }


def wrong_side_saturation(details: StepDetails, env: MecEnv) -> Tensor:
    """Share of saturated compute outputs whose bound is the worse of the two for their task, (R,); NaN without any."""
    compute = details.actions[..., 1]
    saturated = compute.abs() > SATURATED
    high, low = (env.local_cost(details.states, torch.full_like(compute, share)) for share in (1.0, LOWEST_SHARE))
    wrong = torch.where(compute > 0, high > low, low > high)
    counts = [x.flatten(1).sum(1).double() for x in (saturated & wrong, saturated)]
    return counts[0] / counts[1]


def saturation_columns(details: StepDetails, env: MecEnv) -> dict[str, Tensor]:
    """Columns of saturation.csv, each (R,), over batch, agents and outputs of the noise-free actions."""
    saturated = (details.actions.abs() > SATURATED).double()
    z = details.pre_activations.double()
    mean = _mean(z)
    flat = z.flatten(1)
    quantiles = torch.quantile(flat, torch.tensor(QUANTILES, dtype=flat.dtype, device=flat.device), dim=1)
    per_output = {
        f"saturation_{name}": _mean(saturated[..., i]) for i, name in enumerate(("offload", "compute", "power"))
    }
    return {
        "saturation_ratio": _mean(saturated),
        **per_output,
        "wrong_side_saturation": wrong_side_saturation(details, env),
        "tanh_derivative": _mean(1.0 - details.actions.double().square()),
        "z_mean": mean,
        "z_sd": _mean((z - mean.view(-1, 1, 1, 1)).square()).sqrt(),
        "z_min": flat.amin(1),
        **{f"z_q{round(100 * q):02d}": quantiles[i] for i, q in enumerate(QUANTILES)},
        "z_max": flat.amax(1),
        **extra_columns(details.extras),
    }


def extra_columns(extras: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean, sd, min and max of each of an actor variant's measures (R, N, …), each (R,)."""
    columns = {}
    for name, values in extras.items():
        numbers = values.double().flatten(2) if values.ndim > 2 else values.double().unsqueeze(2)
        mean = _mean(numbers)
        columns |= {
            f"{name}_mean": mean,
            f"{name}_sd": _mean((numbers - mean.view(-1, 1, 1)).square()).sqrt(),
            f"{name}_min": numbers.flatten(1).amin(1),
            f"{name}_max": numbers.flatten(1).amax(1),
        }
    return columns


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
        self.columns = {
            schema.REWARDS: ("episode", "training_return", "late_share", "drained_share"),
            schema.EVALUATIONS: ("episode", *(f.name for f in dataclasses.fields(Evaluation))),
        }
        shape = (len(keys), agents)
        untrained = FIRST_TRAINED_EPISODE - 1
        self.last_changed = torch.full(shape, untrained, device=device)
        self.last_alive = torch.full(shape, untrained, device=device)
        self.first_unchanged = torch.zeros(shape, dtype=torch.int64, device=device)  # 0: never yet
        self.diverged_at = torch.zeros(len(keys), dtype=torch.int64, device=device)  # 0: never yet
        self.last_trained = untrained
        self._pending: list[tuple[str, int, Tensor]] = []

    COUNTERS = ("last_changed", "last_alive", "first_unchanged", "diverged_at")

    def observe(self, report: EpisodeReport) -> None:
        """Take in one training episode."""
        episode = report.episode
        rewards = torch.stack((report.training_return, report.late_share, report.drained_share), dim=1)
        self._pending.append((schema.REWARDS, episode, rewards))
        if report.step is None:
            return
        step = report.step
        self.last_trained = episode
        # torch.where, not masked assignment: that would make the host wait for a GPU.
        self.last_changed = torch.where(step.changed, episode, self.last_changed)
        self.last_alive = torch.where(step.gradient_alive, episode, self.last_alive)
        first = step.unchanged & (self.first_unchanged == 0)
        self.first_unchanged = torch.where(first, episode, self.first_unchanged)
        self.diverged_at = torch.where(~step.finite & (self.diverged_at == 0), episode, self.diverged_at)
        if report.details is not None:
            self._observe_details(episode, report.details)

    def _observe_details(self, episode: int, details: StepDetails) -> None:
        measured = {
            schema.GRADIENT_NORMS: gradient_columns(details, *self.layers),
            schema.SATURATION: saturation_columns(details, self.env),
        }
        for table, columns in measured.items():
            self.columns[table] = ("episode", *columns)
            self._pending.append((table, episode, torch.stack([x.double() for x in columns.values()], dim=1)))

    def observe_evaluation(self, episode: int, evaluation: Evaluation, positions: list[int] | None = None) -> None:
        """Take in an evaluation after training episode `episode` (0: before training), of some runs or all."""
        columns = [getattr(evaluation, f.name) for f in dataclasses.fields(evaluation)]
        for position, row in enumerate(torch.stack(columns, dim=1).tolist()):
            if positions is None or position in positions:
                self.records[position].add(schema.EVALUATIONS, [episode, *row])

    def collect(self) -> None:
        """Fetch pending rows to the host, one copy per table; rows after a run's divergence are dropped."""
        by_table: dict[str, list[tuple[int, Tensor]]] = {}
        for table, episode, values in self._pending:
            by_table.setdefault(table, []).append((episode, values))
        self._pending.clear()
        for table, pending in by_table.items():
            fetched = torch.stack([values for _, values in pending]).tolist()
            for (episode, _), rows in zip(pending, fetched, strict=True):
                for record, row in zip(self.records, rows, strict=True):
                    record.add(table, [episode, *row])
        for record, end in zip(self.records, self.diverged_at.tolist(), strict=True):
            if end:
                record.tables = {t: [row for row in rows if row[0] <= end] for t, rows in record.tables.items()}

    def finished(self, episode: int, last: int) -> list[int]:
        """Positions of the runs that end after `episode`: at episode `last`, diverged, or long frozen."""
        if episode >= last:
            return list(range(len(self.records)))
        done = self.diverged_at > 0
        if self.early_stop:
            done |= (episode - self.last_changed).amin(1) >= PATIENCE
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
            "last_trained": self.last_trained,
        }
        return {f"tracker.{name}": getattr(self, name) for name in self.COUNTERS}, meta

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go on from `state` of a tracker of the same runs."""
        for name in self.COUNTERS:
            getattr(self, name).copy_(tensors[f"tracker.{name}"])
        for record, saved in zip(self.records, meta["runs"], strict=True):
            record.tables, record.wall_seconds = saved["tables"], saved["wall_seconds"]
        self.columns = {table: tuple(columns) for table, columns in meta["columns"].items()}
        self.last_trained = meta["last_trained"]

    def agent_rows(self, position: int) -> list[list[int | None]]:
        """Rows (agent, gradient death, first unchanged, freeze) of one run; None where it never happened."""
        counters = (self.last_alive, self.first_unchanged, self.last_changed)
        alive, unchanged, changed = (x[position].tolist() for x in counters)

        def after(last: int) -> int | None:
            return last + 1 if last < self.last_trained else None

        return [[i, after(alive[i]), unchanged[i] or None, after(changed[i])] for i in range(self.agents)]

    def summary(self, position: int, last: int, references: dict[str, float]) -> dict[str, Any]:
        """The run's row of runs.csv without key, names and versions.

        `references`: returns of the policies on this run's world; `last`: the last episode a run may have.
        """
        record = self.records[position]
        agents = self.agent_rows(position)
        deaths, stops, freezes = ([row[i] for row in agents if row[i] is not None] for i in (1, 2, 3))
        diverged = int(self.diverged_at[position]) or None
        returns = record.column(schema.REWARDS, self.columns[schema.REWARDS], "training_return")
        evaluations = record.column(schema.EVALUATIONS, self.columns[schema.EVALUATIONS], "evaluation_return")
        total = len(returns)
        final = None if diverged else float(evaluations[-1])
        span = references["greedy_offload"] - references["random"]
        early = schema.COMPLETED if total >= last else schema.STOPPED_EARLY
        return {
            "status": schema.DIVERGED if diverged else early,
            "diverged_episode": diverged,
            "stopping_episode": max(stops) if len(stops) == self.agents else None,
            "total_episodes": total,
            "frozen_share": len(freezes) / self.agents,
            "dead_share": len(deaths) / self.agents,
            "median_death_episode": float(np.median(deaths)) if deaths else None,
            "median_freeze_episode": float(np.median(freezes)) if freezes else None,
            "first_100_mean_return": float(returns[:100].mean()),
            "last_100_mean_return": float(returns[-100:].mean()),
            "first_evaluation_return": float(evaluations[0]),
            "final_evaluation_return": final,
            "normalised_score": None if final is None or span == 0 else (final - references["random"]) / span,
            **self._final_saturation(record),
            "wall_seconds": record.wall_seconds,
        }

    def _final_saturation(self, record: RunRecord) -> dict[str, float | None]:
        names = ("final_saturation_ratio", "final_wrong_side_saturation", "largest_abs_preactivation")
        if schema.SATURATION not in record.tables:
            return dict.fromkeys(names)
        ratio, wrong, lowest, highest = (
            record.column(schema.SATURATION, self.columns[schema.SATURATION], name)
            for name in ("saturation_ratio", "wrong_side_saturation", "z_min", "z_max")
        )
        largest = float(np.nanmax(np.abs([lowest, highest]))) if np.isfinite([lowest, highest]).any() else None
        return dict(zip(names, (float(ratio[-1]), float(wrong[-1]), largest), strict=True))
