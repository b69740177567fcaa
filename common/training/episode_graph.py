"""Training episodes captured once and replayed: on CUDA, one launch instead of thousands.

`capture` is a function so that everything but the capture itself also runs, and is tested, without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from common.agents.inputs import Due, EpisodeInputs
from common.agents.reports import EpisodeReport
from common.training.tuning import GRAPH_WARM_UP_EPISODES

# Takes a function of tensors only; returns its outputs' places and what recomputes them there.
Capture = Callable[[Callable[[], EpisodeReport]], tuple[EpisodeReport, Callable[[], None]]]


def capture_on_cuda(function: Callable[[], EpisodeReport]) -> tuple[EpisodeReport, Callable[[], None]]:
    """Record `function`'s kernels in a CUDA graph without running them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


class EpisodeGraphs:
    """Runs a learner's episodes by replaying graphs; falls back to plain execution and says so."""

    def __init__(
        self,
        run: Callable[[EpisodeInputs, bool], EpisodeReport],
        capture: Capture,
        warn: Callable[[str], None],
        phase: Callable[[str], AbstractContextManager[None]],
    ):
        """`run` is what is captured; `warn` gets one line if that turns out to be impossible; `phase`: see Learner."""
        self.run, self.capture, self.warn, self.phase = run, capture, warn, phase
        self.possible = True
        self.played = 0  # episodes of this process; a resumed learner has to warm up again
        self.reset()

    def reset(self) -> None:
        """Forget the graphs; needed whenever the learner's tensors are replaced."""
        self.inputs: EpisodeInputs | None = None
        self.graphs: dict[tuple[bool, tuple[Due, ...]], tuple[EpisodeReport, Callable[[], None]]] = {}

    def __call__(self, inputs: EpisodeInputs, details: bool) -> EpisodeReport:
        """As `run`."""
        warming_up = not inputs.due or self.played < GRAPH_WARM_UP_EPISODES
        report = None
        if self.possible and not warming_up:
            report = self._replayed(inputs, details)
        if report is None:
            self.played += 1
            # The last one with details, so that their kernels are loaded before they are captured.
            report = self.run(inputs, details or self.played == GRAPH_WARM_UP_EPISODES)
        return report if details else replace(report, details=None)

    def _replayed(self, inputs: EpisodeInputs, details: bool) -> EpisodeReport | None:
        """The episode by its graph, which depends on what is due; None where none can be captured."""
        if self.inputs is None:
            self.inputs = inputs
        else:
            self.inputs.take(inputs)  # where the graphs read them
        kind = (details, inputs.due)
        if kind not in self.graphs:
            due = replace(self.inputs, due=inputs.due)
            try:
                self.graphs[kind] = self.capture(lambda: self.run(due, details))
            except RuntimeError as problem:
                self.possible = False
                reason = str(problem).splitlines()[0]
                self.warn(f"episodes cannot be captured as a graph ({reason}); running them launch by launch")
                self.reset()
                return None
        outputs, replay = self.graphs[kind]
        with self.phase("graph"):
            replay()
            return outputs.map(torch.Tensor.clone)
