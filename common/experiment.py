"""What an experiment is: the baseline plus what it names, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.config import ConfigError, StudyConfig

if TYPE_CHECKING:
    from common.agents.algorithm import Algorithm
    from common.agents.networks import Actor, Critic


@dataclass(frozen=True)
class Experiment:
    """`description` is what --help begins with; whatever else is not given is the baseline's.

    overrides: new defaults of options. actor, critic, algorithm: subclasses of the baseline's. config: a dataclass,
    subclass of StudyConfig, with options of the experiment's own.
    """

    name: str
    description: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    actor: Callable[[Any], Actor] | None = None
    critic: Callable[[Any], Critic] | None = None
    algorithm: Callable[[Any], Algorithm] | None = None
    config: type[StudyConfig] = StudyConfig

    def check(self) -> None:
        """ConfigError where an option of its own has a name of the engine's or is none, or an override is no option."""
        if not re.fullmatch(r"[A-Za-z]\w*", self.name):
            raise ConfigError(f"experiment {self.name!r}: allowed in its name: letters, digits and _")
        flags = {f"no_{spec.name}" for spec in dataclasses.fields(StudyConfig) if isinstance(spec.default, bool)}
        engine = {*dir(StudyConfig), *flags, "quick", "fresh", "part", "help"}
        known = {spec.name for spec in dataclasses.fields(self.config) if "help" in spec.metadata}
        classes = [own for own in self.config.__mro__ if own not in StudyConfig.__mro__]
        own = [name for cls in classes for name in vars(cls).get("__annotations__", {})]
        for name in own:
            if name in engine:
                another = f'another name, or overrides={{"{name}": …}} for another default'
                raise ConfigError(
                    f"experiment {self.name}: its option {name} hides one of the engine's; allowed: "
                    + (another if name in vars(StudyConfig()) else "another name")
                )
            if name not in known:
                raise ConfigError(
                    f"experiment {self.name}: {name} is no option; needed: a default made by option(…, help), in a "
                    "class with @dataclass(frozen=True)"
                )
        for name in self.overrides:
            if name not in known:
                raise ConfigError(f"experiment {self.name}: overrides {name}, which is no option")
