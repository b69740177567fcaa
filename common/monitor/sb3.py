"""SaturationMonitor for Stable-Baselines3's DDPG, TD3 and SAC, as a callback."""

from weakref import WeakKeyDictionary

from torch import nn

from .measure import MonitorError
from .monitor import SaturationMonitor

try:
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError as missing:
    raise ImportError("saturation_monitor.sb3 needs Stable-Baselines3: pip install stable-baselines3") from missing

WATCHING: WeakKeyDictionary = WeakKeyDictionary()  # model -> the monitor of its latest `learn`


class SaturationCallback(BaseCallback):
    """Measures one actor update in `every` and records the scalars in SB3's logger, under saturation/.

    `monitor` is the SaturationMonitor from the start of `learn` on: history, diagnosis() and report() stay readable
    afterwards. A `learn` with `reset_num_timesteps=False` goes on with the history, also of a model that was loaded.
    `verbose` is SB3's own and changes nothing here.
    Raises MonitorError where the model has no actor and critic with optimisers of their own.
    """

    def __init__(self, every: int = 50, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.every = every
        self.monitor: SaturationMonitor | None = None
        self._recorded = 0

    def _on_training_start(self) -> None:
        actor, critic = (getattr(self.model, name, None) for name in ("actor", "critic"))
        if not all(hasattr(network, "optimizer") for network in (actor, critic)):
            raise MonitorError(
                f"{type(self.model).__name__} has no actor and critic with optimisers of their own: "
                "SaturationCallback measures DDPG, TD3 and SAC"
            )
        earlier, head = self.monitor, _clipped(actor)
        self.monitor = SaturationMonitor(actor, critic, actor.optimizer, critic.optimizer, head, self.every)
        for left in (earlier, WATCHING.get(self.model)):
            if left is not None:
                left.detach()  # an exception may have ended its training
        WATCHING[self.model] = self.monitor
        if earlier is not None and self.num_timesteps > 0:
            self.monitor.history, self.monitor.updates = earlier.history, earlier.updates
        self._recorded = len(self.monitor.history)
        self.monitor.attach()

    def _on_step(self) -> bool:
        if len(self.monitor.history) > self._recorded:
            self._recorded = len(self.monitor.history)
            for name, value in self.monitor.scalars().items():
                self.logger.record(f"saturation/{name}", value)
        return True

    def _on_training_end(self) -> None:
        self._on_step()
        self.monitor.detach()


def _clipped(actor: nn.Module) -> nn.Module | None:
    """Under gSDE the layer before Hardtanh, which clips the mean on its way to the tanh; else None."""
    mu = getattr(actor, "mu", None)
    return mu[0] if isinstance(mu, nn.Sequential) and isinstance(mu[-1], nn.Hardtanh) else None
