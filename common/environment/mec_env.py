"""Mobile-edge-computing environment of CCM-MADRL, vectorised over any leading dimensions (docs/environment.md).

N agents each hold one task; an agent computes it itself with a share alpha of its processor, or offloads it
to one server with a share rho of its transmit power. State columns: power [dBm], gain [dB], energy [MJ],
size [unit of the preset], cycles [per bit], deadline [s], processor [GHz].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.environment.random_streams import stream

STEPS = 10
STATE_SIZE = 7
ACTION_SIZE = 3
POWER, GAIN, ENERGY, SIZE, CYCLES, DEADLINE, PROCESSOR = range(STATE_SIZE)

BANDWIDTH_HZ = 40e6
SERVER_HZ = 4e9
SERVER_UNITS = 8
STORAGE = 400.0
KAPPA = 5e-27
MAX_ENERGY_MJ = 3.2
RESERVE_MJ = 0.5
HARVEST_J = 0.001
MAX_DELAY_S = 1.0
ENERGY_WEIGHT = 0.5
DELAY_WEIGHT = 0.5
LOWEST_SHARE = 0.01

WORLD_RANGES = {"power": (1.0, 24.0), "energy": (0.5, 3.2), "gain": (5.0, 14.0), "processor": (0.4, 1.5)}
TASK_LOW = (1.0, 300.0, 0.1)
TASK_HIGH = (50.0, 737.5, 0.9)


@dataclass(frozen=True)
class Preset:
    """bits_per_unit turns a task's size into bits; the local energy is kappa·bits·cycles·F^frequency_power."""

    bits_per_unit: float
    frequency_power: int


PRESETS = {
    "scaled": Preset(bits_per_unit=8 * 1024**2, frequency_power=2),
    "thesis": Preset(bits_per_unit=8 * 1024, frequency_power=1),
    "interior": Preset(bits_per_unit=8 * 1024, frequency_power=2),
}


@dataclass(frozen=True)
class World:
    """What is drawn once per environment; each field (…, N) in the units of the state."""

    power: Tensor
    energy: Tensor
    gain: Tensor
    processor: Tensor


def draw_world(seeds: list[int], agents: int, dtype: torch.dtype, device: torch.device) -> World:
    """The worlds of these seeds, fields of shape (len(seeds), N)."""
    draws = np.stack([stream(seed, "world").random((4, agents)) for seed in seeds], axis=1)
    columns = {
        name: torch.as_tensor(low + (high - low) * draws[row]).to(device=device, dtype=dtype)
        for row, (name, (low, high)) in enumerate(WORLD_RANGES.items())
    }
    return World(**columns)


def tasks_from_draws(draws: np.ndarray) -> np.ndarray:
    """Unit draws (…, 3) to (size, cycles, deadline), float64."""
    low, high = np.array(TASK_LOW), np.array(TASK_HIGH)
    return low + (high - low) * draws


def share(output: Tensor) -> Tensor:
    """Map an actor output in [-1, 1] linearly to a share in [0.01, 1]."""
    return LOWEST_SHARE + (1.0 - LOWEST_SHARE) * 0.5 * (output + 1.0)


@dataclass(frozen=True)
class Outcome:
    """What one step did: reward (…,), energy after it (…, N) [MJ], late and drained shares (…,)."""

    reward: Tensor
    energy: Tensor
    late_share: Tensor
    drained_share: Tensor


class MecEnv:
    """Equations of one preset; holds no state. Every tensor may have any leading dimensions."""

    def __init__(self, preset: str, channels: int):
        """Equations of `preset` with K = `channels` radio channels."""
        self.preset = PRESETS[preset]
        self.channels = channels

    def _bits(self, state: Tensor) -> Tensor:
        return state[..., SIZE] * self.preset.bits_per_unit

    def local(self, state: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Delay [s] and energy [J] of computing the task with a share alpha (…, N) of the own processor."""
        work = self._bits(state) * state[..., CYCLES]
        frequency = state[..., PROCESSOR] * 1e9 * alpha
        energy = KAPPA * work * frequency
        if self.preset.frequency_power == 2:
            energy = energy * frequency
        return work / frequency, energy

    def radio(self, state: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """Delay [s] and energy [J] of sending the task with a share rho (…, N) of the transmit power."""
        ten = torch.full((), 10.0, dtype=state.dtype, device=state.device).log()
        watts = torch.exp((state[..., POWER] - 30.0) / 10.0 * ten) * rho
        gain = torch.exp(state[..., GAIN] / 10.0 * ten)
        rate = (BANDWIDTH_HZ / self.channels) * torch.log2(1.0 + watts * gain)
        delay = self._bits(state) / rate
        return delay, watts * delay

    def server_finish(self, state: Tensor, offload: Tensor, arrival: Tensor) -> Tensor:
        """When the server has finished each offloaded task [s], (…, N); zero for the others.

        The queue of docs/environment.md, "Server queue", its double counting included. At most `channels` agents offload.
        """
        slots = min(self.channels, state.shape[-2])
        key = torch.where(offload, arrival, torch.inf)
        arrival_sorted, order = key.sort(dim=-1, stable=True)
        arrival_sorted, order = arrival_sorted[..., :slots], order[..., :slots]
        valid = arrival_sorted < torch.inf
        work = (self._bits(state) * state[..., CYCLES] / SERVER_HZ).gather(-1, order)
        finish = torch.where(valid, arrival_sorted + work, 0.0)
        if slots > SERVER_UNITS:
            finish = self._queue(arrival_sorted, work, valid, finish)
        return torch.zeros_like(arrival).scatter(-1, order, finish)

    @staticmethod
    def _queue(arrival: Tensor, work: Tensor, valid: Tensor, finish: Tensor) -> Tensor:
        """Finish times of the tasks after the first M, in order of arrival (…, slots).

        The first M tasks find all units idle, so each takes one of its own. Where fewer than M tasks came,
        no later one exists, so what happens to the (then zero) unit times is never read.
        """
        units = finish[..., :SERVER_UNITS]
        finishes = [finish[..., :SERVER_UNITS]]
        for j in range(SERVER_UNITS, arrival.shape[-1]):
            for earlier in range(j):
                earliest = units.argmin(-1, keepdim=True)
                units = units.scatter_add(-1, earliest, work[..., earlier : earlier + 1])
            free_at, earliest = units.min(-1, keepdim=True)
            done = torch.maximum(arrival[..., j : j + 1], free_at) + work[..., j : j + 1]
            done = torch.where(valid[..., j : j + 1], done, 0.0)
            units = units.scatter(-1, earliest, done)
            finishes.append(done)
        return torch.cat(finishes, dim=-1)

    def energy_after(self, energy: Tensor, used_j: Tensor) -> Tensor:
        """Battery after a step that used `used_j` joules, [MJ], both (…, N)."""
        return (energy - used_j * 1e-6 + HARVEST_J * 1e-6).clamp(0.0, MAX_ENERGY_MJ)

    def used_energy(self, state: Tensor, offload: Tensor, alpha: Tensor, rho: Tensor) -> Tensor:
        """Energy each agent spends on its task [J], (…, N)."""
        return torch.where(offload, self.radio(state, rho)[1], self.local(state, alpha)[1])

    def agent_costs(self, state: Tensor, delay: Tensor, used_j: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cost, energy after [MJ], lateness and drain of each agent, all (…, N), from its delay [s] and energy [J]."""
        time = delay.clamp(max=MAX_DELAY_S) / MAX_DELAY_S
        energy = self.energy_after(state[..., ENERGY], used_j)
        time = torch.where(energy <= 0.0, 1.0, time)
        late = (time - state[..., DEADLINE] / MAX_DELAY_S).clamp(min=0.0)
        drained = (RESERVE_MJ - energy).clamp(min=0.0) * 1e6
        cost = ENERGY_WEIGHT * used_j + DELAY_WEIGHT * time + ENERGY_WEIGHT * drained + DELAY_WEIGHT * late
        return cost, energy, late, drained

    def local_cost(self, state: Tensor, alpha: Tensor) -> Tensor:
        """One step's cost of each agent when it computes locally with share alpha, (…, N)."""
        return self.agent_costs(state, *self.local(state, alpha))[0]

    def step(self, state: Tensor, offload: Tensor, alpha: Tensor, rho: Tensor) -> Outcome:
        """One step from state (…, N, 7) with offload (…, N) bool and shares alpha, rho (…, N)."""
        local_delay, local_energy = self.local(state, alpha)
        arrival, radio_energy = self.radio(state, rho)
        finish = self.server_finish(state, offload, arrival)
        cost, energy, late, drained = self.agent_costs(
            state, torch.where(offload, finish, local_delay), torch.where(offload, radio_energy, local_energy)
        )
        return Outcome(
            reward=-cost.sum(-1),
            energy=energy,
            late_share=(late > 0).to(state.dtype).mean(-1),
            drained_share=(drained > 0).to(state.dtype).mean(-1),
        )
