"""limit_steps: no step is longer than its share of the norm, and a short one keeps its bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.monitor import limit_steps

OPTIMISERS = {
    "Adam": (torch.optim.Adam, {"lr": 0.1}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1}),
    "SGD": (torch.optim.SGD, {"lr": 10.0, "momentum": 0.9}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.1}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(made[-1].bias)
    return made


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Each parameter before these steps, and how far it has moved."""
    before = weights(model)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(16, model[0].in_features, generator=generator)
        optimizer.zero_grad()
        (model(inputs) - 5).square().mean().backward()
        optimizer.step()
    return [(old, new - old) for new, old in zip(weights(model), before, strict=True)]


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def allowed(weight: Tensor, relative: float) -> float:
    return relative * max(float(weight.norm()), 1e-3 * weight.numel() ** 0.5)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_no_step_moves_a_tensor_further(name: str) -> None:
    model, (kind, options) = network(), OPTIMISERS[name]
    optimizer = kind(model.parameters(), **options)
    limit_steps(optimizer, 0.01)
    for _ in range(5):
        for old, moved in train(model, optimizer):
            assert 0 < float(moved.norm()) <= allowed(old, 0.01) * (1 + 1e-3)


def test_weight_and_bias_of_a_layer_count_together() -> None:
    model = network()
    optimizer = adam(model)
    limit_steps(optimizer, 0.01, modules=model)
    weight1, bias1, weight2, bias2 = train(model, optimizer)
    for layer in ((weight1, bias1), (weight2, bias2)):
        old, moved = (torch.cat([t.flatten() for t in both]) for both in zip(*layer, strict=True))
        assert float(moved.norm()) == pytest.approx(allowed(old, 0.01), rel=1e-4)
    start, moved = bias2
    assert float(moved.norm()) > 2 * allowed(start, 0.01)  # the bias starts at 0, but its layer does not


def test_the_step_keeps_its_direction() -> None:
    plain, limited = network(), network()
    optimizer = adam(limited)
    limit_steps(optimizer, 0.01)
    for (_, long), (_, short) in zip(train(plain, adam(plain)), train(limited, optimizer), strict=True):
        cosine = torch.nn.functional.cosine_similarity(long.flatten(), short.flatten(), dim=0)
        assert float(cosine) == pytest.approx(1.0, abs=1e-4)


def test_short_steps_keep_their_bits_and_removing_ends_the_limit() -> None:
    plain, loose, removed = network(), network(), network()
    train(plain, adam(plain), 5)
    optimizer = adam(loose)
    limit_steps(optimizer, 1e6)
    train(loose, optimizer, 5)
    optimizer = adam(removed)
    handle = limit_steps(optimizer, 1e-6)
    handle.remove()
    handle.remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    train(removed, optimizer, 5)
    for other in (loose, removed):
        assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(other), strict=True))


def test_a_single_parameter_that_starts_at_zero_moves() -> None:
    log_alpha = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([log_alpha], lr=0.1)
    limit_steps(optimizer, 0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (log_alpha - 1).square().sum().backward()
        optimizer.step()
    assert log_alpha.item() == pytest.approx(10 * 0.1 * 1e-3, rel=1e-4)


def test_parameter_groups_added_later_are_limited() -> None:
    model, later = network(), nn.Sequential(nn.Linear(2, 2))
    optimizer = adam(model)
    limit_steps(optimizer, 0.01)
    train(model, optimizer)
    optimizer.add_param_group({"params": later.parameters()})
    for old, moved in train(later, optimizer):
        assert 0 < float(moved.norm()) <= allowed(old, 0.01) * (1 + 1e-3)


def test_weights_of_another_kind_are_limited_from_then_on() -> None:
    weights = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weights], lr=1.0)
    limit_steps(optimizer, 0.1)
    for data in (torch.ones(4), torch.ones(4, dtype=torch.float64), torch.ones(9)):
        weights.grad, weights.data = None, data.clone()
        weights.sum().backward()
        optimizer.step()
        assert weights.dtype == data.dtype and torch.allclose(weights, 0.9 * data)


def test_tensors_of_several_dtypes_are_limited() -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    tensors = [torch.full((50,), 1.0, dtype=dtype, requires_grad=True) for dtype in dtypes]
    optimizer = torch.optim.SGD(tensors, lr=1.0)
    limit_steps(optimizer, 0.1)
    sum(t.double().sum() for t in tensors).backward()
    optimizer.step()
    for tensor in tensors:
        assert tensor.dtype in dtypes
        assert torch.allclose(tensor.double(), torch.full((50,), 0.9, dtype=torch.float64), atol=2e-3)


@pytest.mark.parametrize("shares", [(0.01, 0.1), (0.1, 0.01)])
def test_of_two_limits_the_smaller_one_holds(shares: tuple[float, float]) -> None:
    model = network()
    optimizer = adam(model)
    for share in shares:
        limit_steps(optimizer, share)
    for old, moved in train(model, optimizer):
        assert float(moved.norm()) == pytest.approx(allowed(old, 0.01), rel=1e-3)


def test_bad_input() -> None:
    optimizer = adam(network())
    for relative in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="relative"):
            limit_steps(optimizer, relative)
    with pytest.raises(TypeError, match="optimizer"):
        limit_steps(network())
    for wrong in ({"relative": None}, {"relative": network()}, {"modules": "fc1"}, {"modules": [1]}):
        with pytest.raises(TypeError, match=rf"\A{next(iter(wrong))} .*\Z"):
            limit_steps(optimizer, **wrong)
    with pytest.raises(ValueError, match="modules"):
        limit_steps(optimizer, modules=network())
