"""Many copies of one module side by side: their parameters in one flat tensor, stacked by `torch.func.vmap`.

Letters in shapes: R runs, M networks of a run (N actors, or one critic), G = R·M networks, P numbers of a network. All
parameters of a bank lie in one flat tensor, so that the optimiser, the freeze test, target copies and checkpoints are
single tensor operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.agents.layout import Layer, Layout, Tensors
from common.agents.networks import StreamStart
from common.agents.optimizer import Adam
from common.environment.random_streams import stream

Zeros = Callable[[tuple[int, ...], torch.dtype, torch.device], Tensor]


def plain_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """torch.zeros; an engine with worker processes passes memory that these share."""
    return torch.zeros(shape, dtype=dtype, device=device)


def initial_tensors(make: Callable[[], nn.Module], network: str, seed: int, members: int) -> Tensors:
    """Parameters and buffers of one run's networks before training, by name, float64 (M, *shape).

    Parameters of `StreamStart` layers are uniform in ±bound, each from a stream of its own (seed, network, name), so
    that equal shapes start equal in every variant. All else starts as the module's constructor makes it, with
    PyTorch's generator seeded by (seed, network, member).
    """
    with torch.random.fork_rng(devices=[]):
        modules = []
        for member in range(members):
            digest = hashlib.sha256(f"{seed}/{network}/{member}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "little"))
            modules.append(make())
    states = [module.state_dict() for module in modules]
    tensors = {name: torch.stack([state[name] for state in states]).double() for name in states[0]}
    for path, layer in modules[0].named_modules():
        for kind in layer.from_streams() if isinstance(layer, StreamStart) else ():
            name = f"{path}.{kind}"
            shape = states[0][name].shape
            draws = stream(seed, f"initial {network} {name}").random((members, *reversed(shape)))
            values = layer.start_bound * (2.0 * torch.from_numpy(draws) - 1.0)
            tensors[name] = values.mT if len(shape) == 2 else values
    return tensors


class Bank:
    """M networks of each of R runs, with their optimiser's state, target copy and buffers."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        network: str,
        seeds: list[int],
        members: int,
        *,
        optimizer: Callable[[dict[str, Layer]], Adam],
        separate_target: bool,
        one_by_one: bool,
        dtype: torch.dtype,
        device: torch.device,
        zeros: Zeros = plain_zeros,
        numbers_at_once: int = 2**62,
    ):
        """Untrained networks, the same for runs of one of `seeds` (R,).

        `make` builds one of them; `network` names their random streams; without a `separate_target` the target is the
        network itself; `one_by_one` calls the networks in a loop instead of stacked; the optimiser takes about
        `numbers_at_once` of a run's on the CPU.
        """
        self.module, self.one_by_one, self.zeros = make(), one_by_one, zeros
        self.module.requires_grad_(False)
        self.layout = Layout({name: tuple(x.shape) for name, x in self.module.named_parameters()})
        self.buffer_layout = Layout({name: tuple(x.shape) for name, x in self.module.named_buffers()})
        self.optimizer = optimizer(self.layout.layers)
        self.members_at_once = max(1, numbers_at_once // self.layout.size)
        self._slots = _slots(self.module)
        self._prototype = {name: holder[key] for holder, key, name in self._slots}
        self._stacks: dict[str, bool] = {}
        untrained = {seed: initial_tensors(make, network, seed, members) for seed in dict.fromkeys(seeds)}

        def placed(layout: Layout) -> Tensor:
            flat = zeros((len(seeds), members, layout.size), dtype, device)
            for run, seed in enumerate(seeds):
                for name, view in layout.views(flat[run : run + 1]).items():
                    view.copy_(untrained[seed][name])
            return flat

        self.flat = placed(self.layout)
        self.moments = {name: zeros(tuple(self.flat.shape), dtype, device) for name in self.optimizer.moments}
        self.target = self._copied(self.flat) if separate_target else None
        self.buffers = placed(self.buffer_layout) if self.buffer_layout.size else None  # one set, the target's too

    def _copied(self, values: Tensor) -> Tensor:
        return self.zeros(tuple(values.shape), values.dtype, values.device).copy_(values)

    def tensors(self, runs: slice, members: slice = slice(None), target: bool = False) -> Tensors:
        """Parameters and buffers of networks `members` of `runs`, (g, …) each; of all members as views."""
        flat = self.target if target and self.target is not None else self.flat
        # `.data` for a version count of its own: some agents are stepped before the backward pass of others.
        found = self.layout.views(flat.data[runs, members])
        return found if self.buffers is None else found | self.buffer_layout.views(self.buffers[runs, members])

    def leaves(self, runs: slice, members: slice = slice(None)) -> tuple[Tensors, Tensors]:
        """Their parameters as leaves of a gradient computation, and these with the buffers."""
        own = self.tensors(runs, members)
        leaves = {name: own[name].detach().requires_grad_() for name in self.layout.shapes}
        return leaves, own | leaves

    def call(self, method: str, tensors: Tensors, *inputs: Tensor) -> Tensor | Tensors:
        """What `method` of every network gives for its own of `inputs` (g, …): (g, …), or a dict of them."""
        count = len(inputs[0])
        if self.one_by_one and count == 1:
            alone = {name: x.squeeze(0) for name, x in tensors.items()}
            return self.call_one(method, alone, *(x.squeeze(0) for x in inputs)).unsqueeze(0)
        if self.one_by_one:
            parts = zip(*(x.unbind() for x in (*tensors.values(), *inputs)), strict=True)
            own = ((dict(zip(tensors, x, strict=False)), x[len(tensors) :]) for x in parts)
            return torch.stack([self.call_one(method, named, *x) for named, x in own])
        if count == 1:  # a product that stands alone rounds differently than in a stack
            tensors = {name: x.expand(2, *x.shape[1:]) for name, x in tensors.items()}
            both = self.call(method, tensors, *(x.expand(2, *x.shape[1:]) for x in inputs))
            return both[:1] if isinstance(both, Tensor) else {name: x[:1] for name, x in both.items()}
        if self._stacks_by_itself(method, inputs):
            return self.call_one(method, tensors, *inputs)
        return torch.func.vmap(lambda own, *x: self.call_one(method, own, *x))(tensors, *inputs)

    def _stacks_by_itself(self, method: str, inputs: tuple[Tensor, ...]) -> bool:
        """Whether a method run on stacked tensors as they are does what `vmap` makes of it, without its overhead.

        Our Linear and elementwise functions do. It is tried out, once, on random networks of several sizes of weights.
        """
        if method not in self._stacks:
            self._stacks[method] = self.buffers is None and self._tried(method, inputs)
        return self._stacks[method]

    @torch.no_grad()
    def _tried(self, method: str, inputs: tuple[Tensor, ...]) -> bool:
        random = torch.Generator().manual_seed(0)
        for scale in (1e-2, 1.0, 1e2, 1e4):  # a rule may begin to work only where numbers are large
            spread = scale * torch.tensor([1.0, 3.0, 10.0])
            tensors, x = {}, []
            for name, shape in self.layout.shapes.items():
                tensors[name] = (torch.rand((3, *shape), generator=random) - 0.5) * spread.view(3, *(1 for _ in shape))
            for own in inputs:
                x.append(torch.rand((3, 5, *own.shape[2:]), generator=random) * scale)
            expected = torch.func.vmap(lambda own, *x: self.call_one(method, own, *x))(tensors, *x)
            try:
                found = self.call_one(method, tensors, *x)
            except (RuntimeError, TypeError, ValueError, IndexError):  # what a module says of a dimension too many
                return False
            if not isinstance(found, Tensor) or found.shape != expected.shape:
                return False
            if not torch.allclose(found, expected, rtol=1e-4):
                return False
        return True

    def observe(self, method: str, runs: slice, *inputs: Tensor) -> None:
        """Let every network of `runs` update its buffers by `method`, from its own of `inputs` (g, …)."""
        if self.buffers is None:
            return

        def observed(own: Tensors, *x: Tensor) -> Tensor:
            self.call_one(method, own, *x)
            return x[0].new_zeros(())  # vmap wants a tensor

        with torch.no_grad():
            torch.func.vmap(observed)(self.tensors(runs), *inputs)

    def call_one(self, method: str, own: Tensors, *inputs: Tensor) -> Tensor | Tensors:
        """A method of one network, given its tensors, on its own inputs (as torch.func.functional_call, any method)."""
        for holder, key, name in self._slots:
            holder[key] = own[name]
        try:
            return getattr(self.module, method)(*inputs)
        finally:
            for holder, key, name in self._slots:
                holder[key] = self._prototype[name]

    def step(self, runs: slice, members: slice, gradients: Tensor, scales: Tensor, *, exact: bool = True) -> Tensor:
        """Step networks `members` of `runs` down `gradients` (r, m, P), which is overwritten.

        scales (R, k) are those of the optimiser. Returns the weight change that really happened, (r, m, P), zeros
        where rounding swallowed it; with `exact` off as it was meant, which costs two passes less.
        """
        part = (runs, members)
        moments = tuple(x[part] for x in self.moments.values())
        return self.optimizer.step(self.flat[part], gradients, moments, scales[runs], exact, self.members_at_once)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        tensors = {"parameters": self.flat, **self.moments, "target": self.target, "buffers": self.buffers}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def keep(self, runs: Tensor) -> None:
        """Keep only these runs."""
        kept = {name: self._copied(value.index_select(0, runs)) for name, value in self.state().items()}
        self.flat, self.moments = kept["parameters"], {name: kept[name] for name in self.moments}
        self.target, self.buffers = kept.get("target"), kept.get("buffers")


def _slots(module: nn.Module) -> list[tuple[dict[str, Tensor], str, str]]:
    """Where a module keeps each parameter and buffer: the dict, the key in it, and the full name."""
    found = []
    for kind in ("_parameters", "_buffers"):
        for path, owner in module.named_modules():
            holder = getattr(owner, kind)
            found += [(holder, key, f"{path}.{key}".lstrip(".")) for key in holder if holder[key] is not None]
    return found
