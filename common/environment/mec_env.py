"""Mobile-edge-computing environment of CCM-MADRL (arXiv 2402.11653), vectorised over any leading dimensions.

Equations, constants and their sources: docs/environment.md. N agents each hold one task; an agent computes it itself
with a share alpha of its processor, or offloads it to one server with a share rho of its transmit power. State columns:
power [dBm], gain [dB], energy [MJ], size [unit of the preset], cycles [per bit], deadline [s], processor [GHz].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.environment.random_streams import stream
from common.environment.records import TensorRecord

STEPS = 10
STATE_SIZE = 7
OUTPUTS = ("offload", "compute", "power")  # of an actor
ACTION_SIZE = len(OUTPUTS)
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
class World(TensorRecord):
    """What is drawn once per environment; each field (…, N) in the units of the state."""

    power: Tensor
    energy: Tensor
    gain: Tensor
    processor: Tensor


def draw_world(seeds: list[int], agents: int, dtype: torch.dtype, device: torch.device) -> World:
    """Draw the worlds of these seeds, fields of shape (len(seeds), N)."""
    draws = np.stack([stream(seed, "world").random((4, agents)) for seed in seeds], axis=1)
    columns = {
        name: torch.as_tensor(low + (high - low) * draws[row]).to(device=device, dtype=dtype)
        for row, (name, (low, high)) in enumerate(WORLD_RANGES.items())
    }
    return World(**columns)


def tasks_from_draws(draws: np.ndarray) -> np.ndarray:
    """Turn unit draws (…, 3) into (size, cycles, deadline), float64."""
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
        """Take the equations of `preset` with K = `channels` radio channels."""
        self.preset = PRESETS[preset]
        self.channels = channels

    def _bits(self, state: Tensor) -> Tensor:
        return state[..., SIZE] * self.preset.bits_per_unit

    def local(self, state: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Compute delay [s] and energy [J] of each task on a share alpha (…, N) of the own processor."""
        work = self._bits(state) * state[..., CYCLES]
        frequency = state[..., PROCESSOR] * 1e9 * alpha
        energy = KAPPA * work * frequency
        if self.preset.frequency_power == 2:
            energy = energy * frequency
        return work / frequency, energy

    def radio(self, state: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """Compute delay [s] and energy [J] of sending each task with a share rho (…, N) of the transmit power."""
        ten = torch.full((), 10.0, dtype=state.dtype, device=state.device).log()
        watts = torch.exp((state[..., POWER] - 30.0) / 10.0 * ten) * rho
        gain = torch.exp(state[..., GAIN] / 10.0 * ten)
        rate = (BANDWIDTH_HZ / self.channels) * torch.log2(1.0 + watts * gain)
        delay = self._bits(state) / rate
        return delay, watts * delay

    def server_work(self, state: Tensor) -> Tensor:
        """Compute the time that one unit of the server takes for each task [s], (…, N)."""
        return self._bits(state) * state[..., CYCLES] / SERVER_HZ

    def server_finish(self, state: Tensor, offload: Tensor, arrival: Tensor) -> Tensor:
        """Compute when the server has finished each offloaded task [s], (…, N); zero for the others.

        docs/environment.md, "Server queue", its double counting included. At most `channels` agents may offload.
        """
        slots = min(self.channels, state.shape[-2])
        key = torch.where(offload, arrival, torch.inf)
        arrival_sorted, order = key.sort(dim=-1, stable=True)
        arrival_sorted, order = arrival_sorted[..., :slots], order[..., :slots]
        valid = arrival_sorted < torch.inf
        work = self.server_work(state).gather(-1, order)
        finish = torch.where(valid, arrival_sorted + work, 0.0)
        if slots > SERVER_UNITS:
            finish = self._queue(arrival_sorted, work, valid, finish)
        return torch.zeros_like(arrival).scatter(-1, order, finish)

    @staticmethod
    def _queue(arrival: Tensor, work: Tensor, valid: Tensor, finish: Tensor) -> Tensor:
        """Let the tasks after the first M wait; finish times of all in order of arrival (…, slots).

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
        """Compute the battery [MJ] after a step that used `used_j` joules, both (…, N)."""
        return (energy - used_j * 1e-6 + HARVEST_J * 1e-6).clamp(0.0, MAX_ENERGY_MJ)

    def used_energy(self, state: Tensor, offload: Tensor, alpha: Tensor, rho: Tensor) -> Tensor:
        """Compute the energy that each agent spends on its task [J], (…, N)."""
        return torch.where(offload, self.radio(state, rho)[1], self.local(state, alpha)[1])

    def agent_costs(self, state: Tensor, delay: Tensor, used_j: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Turn delay [s] and energy [J] into each agent's cost, energy after [MJ], lateness and drain, all (…, N)."""
        time = delay.clamp(max=MAX_DELAY_S) / MAX_DELAY_S
        energy = self.energy_after(state[..., ENERGY], used_j)
        time = torch.where(energy <= 0.0, 1.0, time)
        late = (time - state[..., DEADLINE] / MAX_DELAY_S).clamp(min=0.0)
        drained = (RESERVE_MJ - energy).clamp(min=0.0) * 1e6
        cost = ENERGY_WEIGHT * used_j + DELAY_WEIGHT * time + ENERGY_WEIGHT * drained + DELAY_WEIGHT * late
        return cost, energy, late, drained

    def local_cost(self, state: Tensor, alpha: Tensor) -> Tensor:
        """Compute each agent's cost of one step when it computes locally with share alpha, (…, N)."""
        return self.agent_costs(state, *self.local(state, alpha))[0]

    def step(self, state: Tensor, offload: Tensor, alpha: Tensor, rho: Tensor) -> Outcome:
        """Take one step from state (…, N, 7) with offload (…, N) bool and shares alpha, rho (…, N)."""
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

    def reward_slope(self, state: Tensor, offload: Tensor, actions: Tensor) -> Tensor:
        """Differentiate one step's reward by the actors' outputs: dr/da (…, N, 3) at actions (…, N, 3) in [-1, 1].

        state (…, N, 7), offload (…, N) bool; who offloads is held fixed, so the first output has slope 0, as have
        alpha of who offloads and rho of who doesn't. An agent's power also moves when the tasks after its own finish.
        docs/environment.md, "Reward".
        """
        with torch.enable_grad():
            outputs = actions.detach().requires_grad_()
            outcome = self.step(state, offload, share(outputs[..., 1]), share(outputs[..., 2]))
            return torch.autograd.grad(outcome.reward.sum(), outputs)[0]
