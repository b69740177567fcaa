"""limit_steps: no step is longer than its share of the norm, and a short one keeps its bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.monitor import limit_steps

OPTIMISERS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=10.0, momentum=0.9),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(made[-1].bias)
    return made


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(16, 4, generator=generator)
        optimizer.zero_grad()
        (model(inputs) - 5).square().mean().backward()
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def allowed(tensors: list[Tensor], relative: float) -> float:
    flat = torch.cat([t.flatten() for t in tensors])
    return relative * max(float(flat.norm()), 1e-3 * flat.numel() ** 0.5)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_no_step_moves_a_tensor_further(name: str) -> None:
    model = network()
    optimizer = OPTIMISERS[name](model.parameters())
    limit_steps(optimizer, 0.01)
    for _ in range(5):
        before = weights(model)
        train(model, optimizer, 1)
        for new, old in zip(weights(model), before, strict=True):
            step = float((new - old).norm())
            assert 0 < step <= allowed([old], 0.01) * (1 + 1e-3)


def test_weight_and_bias_of_a_layer_count_together() -> None:
    model = network()
    optimizer = OPTIMISERS["Adam"](model.parameters())
    limit_steps(optimizer, 0.01, modules=model)
    before = weights(model)
    train(model, optimizer, 1)
    after = weights(model)
    for layer in (slice(0, 2), slice(2, 4)):
        step = torch.cat([(a - b).flatten() for a, b in zip(after[layer], before[layer], strict=True)])
        assert float(step.norm()) == pytest.approx(allowed(before[layer], 0.01), rel=1e-4)
    moved_bias = float((after[3] - before[3]).norm())
    assert moved_bias > 2 * allowed([before[3]], 0.01)  # the bias starts at 0, but its layer does not


def test_the_step_keeps_its_direction() -> None:
    plain, limited = network(), network()
    for model in (plain, limited):
        optimizer = OPTIMISERS["Adam"](model.parameters())
        if model is limited:
            limit_steps(optimizer, 0.01)
        train(model, optimizer, 1)
    for start, long, short in zip(weights(network()), weights(plain), weights(limited), strict=True):
        cosine = torch.nn.functional.cosine_similarity((long - start).flatten(), (short - start).flatten(), dim=0)
        assert float(cosine) == pytest.approx(1.0, abs=1e-4)


def test_short_steps_keep_their_bits_and_removing_ends_the_limit() -> None:
    plain, loose, removed = network(), network(), network()
    for model in (plain, loose, removed):
        optimizer = OPTIMISERS["Adam"](model.parameters())
        if model is loose:
            limit_steps(optimizer, 1e6)
        if model is removed:
            handle = limit_steps(optimizer, 1e-6)
            handle.remove()
            handle.remove()
            assert not optimizer._optimizer_step_pre_hooks
            assert not optimizer._optimizer_step_post_hooks
        train(model, optimizer, 5)
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
    model, later = network(), nn.Linear(2, 2)
    optimizer = OPTIMISERS["Adam"](model.parameters())
    limit_steps(optimizer, 0.01)
    train(model, optimizer, 1)
    optimizer.add_param_group({"params": later.parameters()})
    before = weights(later)
    optimizer.zero_grad()
    later(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for new, old in zip(weights(later), before, strict=True):
        assert float((new - old).norm()) <= allowed([old], 0.01) * (1 + 1e-3)


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


def test_of_two_limits_the_smaller_one_holds() -> None:
    for shares in ((0.01, 0.1), (0.1, 0.01)):
        model = network()
        optimizer = OPTIMISERS["Adam"](model.parameters())
        for share in shares:
            limit_steps(optimizer, share)
        before = weights(model)
        train(model, optimizer, 1)
        for new, old in zip(weights(model), before, strict=True):
            assert float((new - old).norm()) == pytest.approx(allowed([old], 0.01), rel=1e-3)


@pytest.mark.parametrize("relative", [0.0, -1.0, float("nan")])
def test_a_share_that_is_none(relative: float) -> None:
    with pytest.raises(ValueError, match="relative"):
        limit_steps(torch.optim.SGD(network().parameters(), lr=0.1), relative)


def test_no_optimiser_and_modules_of_another_network() -> None:
    with pytest.raises(TypeError, match="optimizer"):
        limit_steps(network())
    with pytest.raises(ValueError, match="modules"):
        limit_steps(torch.optim.SGD(network().parameters(), lr=0.1), modules=network())
