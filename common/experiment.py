"""What an experiment is: the baseline plus what it names, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.agents.networks import Actor, Critic


@dataclass(frozen=True)
class Experiment:
    """`overrides` are fields of StudyConfig; `description` is what --help begins with."""

    name: str
    description: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    actor_class: type[Actor] = Actor
    critic_class: type[Critic] = Critic
