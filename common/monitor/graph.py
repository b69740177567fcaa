"""What autograd and forward hooks tell about a pass: who was called, what depends on what, and the same pass again."""

import copy
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

LAYERS = ("mm", "mv", "conv", "linear")  # parts of the names of nodes that mix outputs: no squash of one output
TANH = {torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_}
KEPT_CALLS = 128  # of one module in one measured update; a loop that records gradients in its rollout makes more

Edge = tuple[Node, int]


def edge(tensor: Tensor) -> Edge | None:
    """Where a tensor comes from in the graph; None where no gradient is recorded."""
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists, mappings (TensorDicts included), dataclasses and distributions, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors_in(item)]
    if callable(getattr(value, "values", None)):
        return [t for item in value.values() for t in tensors_in(item)]
    if isinstance(value, Distribution):  # its parameters, the mean before the scale
        own = [value.base_dist] if hasattr(value, "base_dist") else [vars(value).get(n) for n in value.arg_constraints]
        return tensors_in(own)
    if is_dataclass(value) and not isinstance(value, type):
        return tensors_in([*vars(value).values()])
    return []


def replaced(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with each tensor changed; what is no tensor stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(replaced(item, change) for item in value)
    if isinstance(value, dict):
        new = copy.copy(value)
        new.update({key: replaced(item, change) for key, item in value.items()})
        return new
    if callable(getattr(value, "apply", None)) and callable(getattr(value, "values", None)):  # a TensorDict
        return value.apply(change)
    return value


def search(starts: Iterable[Edge], target: Callable[[Edge], bool]) -> Iterator[tuple[Edge, Node | None]]:
    """Walk back from `starts`, nearest first, and yield each target with the tanh that bounds it on the way, if any.

    That is the one nearest to the start with nothing but elementwise steps between it and the target. Nothing behind a
    target is visited.
    """
    waiting: list[tuple[Edge, Node | None]] = [(start, None) for start in starts]
    seen: set[Edge] = set()
    for here, tanh in waiting:  # grows while it is read
        if here in seen:
            continue
        seen.add(here)
        if target(here):
            yield here, tanh
            continue
        node = here[0]
        if mixes(node):
            tanh = None
        elif tanh is None and node.name().startswith("TanhBackward"):
            tanh = node
        waiting.extend(((n, i), tanh) for n, i in node.next_functions if n is not None)


def mixes(node: Node) -> bool:
    """Whether this node is a layer, which mixes outputs, and no elementwise step."""
    return any(layer in node.name().lower() for layer in LAYERS)


def nearest_tanhs(output: Tensor) -> list[Node]:
    """The tanh that made `output` (several where it was put together), with nothing but elementwise steps after it."""
    start = edge(output)
    if start is None:
        return []

    def stops(here: Edge) -> bool:
        return here[0].name().startswith("TanhBackward") or mixes(here[0])

    return [node for (node, _), _ in search([start], stops) if node.name().startswith("TanhBackward")]


@dataclass(eq=False)
class Call:
    """One recorded call of a module: enough to make the same call again."""

    module: nn.Module
    args: tuple
    kwargs: dict
    random: "RandomState"
    attributes: dict[nn.Module, dict[str, Any]]  # of the module and its parts: some keep a hidden state there
    outputs: list[Tensor] = field(default_factory=list)

    def inputs(self) -> list[Tensor]:
        """All tensors that it received."""
        return tensors_in((self.args, self.kwargs))

    def made(self) -> dict[Edge, int]:
        """The places of the outputs that carry a gradient; a TensorDict returns its inputs, too, which are left out."""
        given = {edge(t) for t in self.inputs()}
        return {edge(t): i for i, t in enumerate(self.outputs) if t.grad_fn is not None and edge(t) not in given}


class Recorder:
    """Records the outermost calls of a network and of its parts (some code bypasses `forward`) while it is started.

    Calls under `no_grad`, such as rollouts and target passes, are ignored, and so are those in which no output
    carries a gradient.
    """

    def __init__(self, network: nn.Module, called: Callable[[Call], None]) -> None:
        self._modules = outside_compiled(network)
        self._called = called
        self._calls = OpenCalls()
        self._handles: list[Any] = []
        self.paused = False

    def start(self) -> None:
        """Begin to record; does nothing where it records already."""
        if not self._handles:
            before, after = ModuleHook(self._before), ModuleHook(self._after)
            for module in self._modules:
                self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                self._handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))

    def stop(self) -> None:
        """End recording and remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls = OpenCalls()

    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.paused:
            return
        call = None
        if not self._calls.open and torch.is_grad_enabled():  # the outermost one
            args, kwargs = replaced((args, kwargs), lambda tensor: tensor)  # a TensorDict is written to by the call
            call = Call(module, args, kwargs, RandomState.now(module, args), attributes_of(module))
        self._calls.open.append((module, call))

    def _after(self, module: nn.Module, _args: tuple, _kwargs: dict, output: Any) -> None:
        calls = self._calls.open
        if self.paused or not calls or calls[-1][0] is not module:
            return
        call = calls.pop()[1]
        if call is not None:
            call.outputs = tensors_in(output)
            if call.made():
                self._called(call)


def outside_compiled(module: nn.Module) -> list[nn.Module]:
    """The module and its parts, without what is inside compiled code: a hook there would change what is compiled."""
    inner = [] if hasattr(module, "_orig_mod") else module.children()
    return [module, *dict.fromkeys(part for child in inner for part in outside_compiled(child))]


class OpenCalls(threading.local):
    """Modules that are being called, outermost first; each thread has its own (one may act while another learns)."""

    def __init__(self) -> None:
        self.open: list[tuple[nn.Module, Call | None]] = []

    def __reduce__(self) -> tuple:
        return OpenCalls, ()


class ModuleHook:
    """A hook that a copied or saved module does not keep: targets made by `deepcopy` are not measured."""

    def __init__(self, function: Callable[..., None] | None = None) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        if self._function is not None and not torch.compiler.is_compiling():
            self._function(*args)

    def __deepcopy__(self, _memo: dict) -> "ModuleHook":
        return ModuleHook()

    def __reduce__(self) -> tuple:
        return ModuleHook, ()


@dataclass
class RandomState:
    """State of the generators that a forward pass may draw from, and what autocast does."""

    device: torch.device
    states: list[Any]
    autocast: tuple[bool, torch.dtype]

    @classmethod
    def now(cls, module: nn.Module, args: tuple) -> "RandomState":
        found = [*module.parameters(), *tensors_in(args)]
        device = next((t.device for t in found if t.device.type not in ("cpu", "meta")), torch.device("cpu"))
        autocast = (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))
        return cls(device, cls._get(device), autocast)

    @staticmethod
    def _get(device: torch.device) -> list[Any]:
        numpy = sys.modules.get("numpy")
        states = [torch.get_rng_state(), random.getstate(), numpy and numpy.random.get_state()]
        if device.type != "cpu":
            backend = getattr(torch, device.type)
            states.append(backend.get_rng_state(device) if device.type == "cuda" else backend.get_rng_state())
        return states

    def _set(self, states: list[Any]) -> None:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        if states[2] is not None:
            sys.modules["numpy"].random.set_state(states[2])
        if self.device.type != "cpu":
            backend = getattr(torch, self.device.type)
            backend.set_rng_state(states[3], *([self.device] if self.device.type == "cuda" else []))

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers within, and leave the generators as they were found."""
        found = self._get(self.device)
        self._set(self.states)
        try:
            enabled = self.autocast[0]  # without its cache, which would hold the weights from before the step
            with torch.autocast(self.device.type, dtype=self.autocast[1], enabled=enabled, cache_enabled=False):
                yield
        finally:
            self._set(found)


class TanhCalls(TorchFunctionMode):
    """Keeps what every tanh receives and returns, as functional code has no module to hook."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func not in TANH:
            return func(*args, **(kwargs or {}))
        given = args[0] if args else (kwargs or {})["input"]
        if func.__name__.endswith("_"):
            given = given.detach().clone()  # it is overwritten
        result = func(*args, **(kwargs or {}))
        self.calls.append((given, result))
        return result


class Replay:
    """Recorded calls made again: the same random numbers, no buffer or gradient of the network changed.

    outputs, heads: by call, what it returned and the last output of `head` in it. tanhs: what each tanh received and
    returned. complete: whether every input that depends on the network was made again, too.
    """

    def __init__(self, calls: Iterable[Call], earlier: list[Call], head: nn.Module | None) -> None:
        self.complete = True
        self.outputs: dict[Call, list[Tensor]] = {}
        self.heads: dict[Call, Tensor | None] = {}
        self._head: Tensor | None = None
        self._ours = {made: (c, place) for c in earlier for made, place in c.made().items()}
        with ExitStack() as stack:
            mode = stack.enter_context(TanhCalls())
            if head is not None:
                stack.callback(head.register_forward_hook(ModuleHook(self._keep_head)).remove)
            for call in calls:
                self._again(call)
        self.tanhs = mode.calls

    def _keep_head(self, _module: nn.Module, _args: tuple, output: Any) -> None:
        self._head = tensors_in(output)[0]

    def _again(self, call: Call) -> list[Tensor]:
        if call not in self.outputs:
            args, kwargs = replaced((call.args, call.kwargs), self._input)
            self.outputs[call] = tensors_in(run_again(call, args, kwargs))
            self.heads[call] = self._head
        return self.outputs[call]

    def _input(self, tensor: Tensor) -> Tensor:
        here = edge(tensor)
        if here is None:
            return tensor.detach().clone()  # the network may write to it
        if here in self._ours:
            call, index = self._ours[here]
            return self._again(call)[index]
        if any(True for _ in search([here], self._ours.__contains__)):
            self.complete = False  # made from an earlier output by code outside the network
        return tensor.detach().clone()


def run_again(call: Call, args: tuple, kwargs: dict) -> Any:
    """The output of the call's module, in eager mode, with the call's random numbers and attributes.

    Buffers are copies, and attributes are put back.
    """
    module = eager(call.module)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with call.random.again(), uncompiled(), attributes(call.attributes):
        return torch.func.functional_call(module, buffers, args, kwargs) if buffers else module(*args, **kwargs)


def attributes_of(module: nn.Module) -> dict[nn.Module, dict[str, Any]]:
    """What each part of a module holds now, by name; the values themselves are not copied."""
    return {part: dict(vars(part)) for part in module.modules()}


@contextmanager
def attributes(then: dict[nn.Module, dict[str, Any]]) -> Iterator[None]:
    """Give the parts of a module what they held then, and what they hold now back at the end."""
    now = {part: dict(vars(part)) for part in then}

    def put(states: dict[nn.Module, dict[str, Any]]) -> None:
        for part, state in states.items():
            for name in vars(part).keys() - state.keys():
                del vars(part)[name]
            vars(part).update(state)

    put(then)
    try:
        yield
    finally:
        put(now)


def uncompiled() -> AbstractContextManager:
    """Compiled parts run as they were written; does not load the compiler where nothing is compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def eager(module: nn.Module) -> nn.Module:
    """The module itself, or what `torch.compile` was given."""
    return getattr(module, "_orig_mod", module)


def is_compiled(module: nn.Module) -> bool:
    """Whether this is what `torch.compile` returned, or holds such a part."""
    return any(hasattr(part, "_orig_mod") for part in module.modules())
