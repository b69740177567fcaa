"""Training episodes captured once and replayed: on CUDA, one launch instead of thousands.

`capture` is a function so that everything but the capture itself also runs, and is tested, without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch

from common.agents.episode_inputs import EpisodeInputs
from common.agents.learner import Learner
from common.agents.reports import EpisodeReport

WARM_UP_EPISODES = 3  # played launch by launch first, so that libraries have set themselves up

# Takes a function of tensors only; returns its outputs' places and what recomputes them there.
Capture = Callable[[Callable[[], EpisodeReport]], tuple[EpisodeReport, Callable[[], None]]]


def capture_on_cuda(function: Callable[[], EpisodeReport]) -> tuple[EpisodeReport, Callable[[], None]]:
    """Record `function`'s kernels in a CUDA graph without running them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


class EpisodeGraphs:
    """Plays a learner's episodes by replaying graphs; falls back to plain execution and says so."""

    def __init__(self, learner: Learner, capture: Capture, warn: Callable[[str], None]):
        """`warn` gets one line if capturing turns out to be impossible."""
        self.learner, self.capture, self.warn = learner, capture, warn
        self.possible = True
        self.played = 0  # episodes of this process; a resumed learner has to warm up again
        self.reset()

    def reset(self) -> None:
        """Forget the graphs; needed whenever the learner's tensors are replaced."""
        self.inputs: EpisodeInputs | None = None
        self.graphs: dict[bool, tuple[EpisodeReport, Callable[[], None]]] = {}

    def train_episode(self, details: bool = False) -> EpisodeReport:
        """As Learner.train_episode."""
        learner = self.learner
        if not self.possible or learner.episode == 0 or self.played < WARM_UP_EPISODES:
            self.played += 1
            # The last one with details, so that their kernels are loaded before they are captured.
            report = learner.train_episode(details or self.played == WARM_UP_EPISODES)
            return report if details else replace(report, details=None)
        self._take(learner.inputs(learner.episode + 1))
        if details not in self.graphs and not self._captured(details):
            return learner.train_episode(details)
        outputs, replay = self.graphs[details]
        with learner.timer.phase("graph"):
            replay()
            report = replace(outputs.map(torch.Tensor.clone), episode=learner.episode + 1)
        learner.advance()
        return report

    def _take(self, inputs: EpisodeInputs) -> None:
        """Put this episode's inputs where the graphs read them."""
        if self.inputs is None:
            self.inputs = inputs
            return
        for name in (f.name for f in fields(inputs)):
            getattr(self.inputs, name).copy_(getattr(inputs, name))

    def _captured(self, details: bool) -> bool:
        try:
            self.graphs[details] = self.capture(lambda: self.learner.run_episode(self.inputs, True, details))
        except RuntimeError as problem:
            self.possible = False
            reason = str(problem).splitlines()[0]
            self.warn(f"episodes cannot be captured as a graph ({reason}); running them launch by launch")
            self.reset()
        return self.possible
