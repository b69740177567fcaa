"""What saturated, stuck, bang-bang and coherent mean, on values worked out by hand and on stacks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from common.monitor import definitions

ACTIONS = torch.tensor([[1.0, -0.995], [0.95, 0.5], [-1.0, 0.9], [0.991, 0.0]])
DQ_DA = torch.tensor([[-1.0, -2.0], [-1.0, 3.0], [-1.0, 0.0], [0.0, 2.0]])


def test_values_by_hand() -> None:
    assert definitions.saturation_ratio(ACTIONS) == 5 / 8  # 0.9 is not above 0.9
    assert definitions.stuck_share(ACTIONS, DQ_DA) == 1 / 8
    assert definitions.bang_bang_share(ACTIONS, DQ_DA) == 2 / 8
    assert definitions.zero_derivative_share(ACTIONS) == 2 / 8
    slopes = [0, 1 - 0.995**2, 1 - 0.95**2, 0.75, 0, 0.19, 1 - 0.991**2, 1]
    assert float(definitions.tanh_derivative(ACTIONS)) == pytest.approx(sum(slopes) / 8, rel=1e-6)
    assert definitions.z_abs_max(-5 * ACTIONS) == 5
    assert definitions.z_abs_median(torch.tensor([[-3.0], [1.0], [2.0]])) == 2
    assert definitions.z_range(torch.tensor([[-3.0, 9.0], [1.0, 9.0], [2.0, 8.0]])) == 5
    assert definitions.z_range(torch.tensor([[-3.0, 9.0]])).isnan()
    assert definitions.dq_da_abs_mean(DQ_DA) == 10 / 8
    assert definitions.dq_da_sign_coherence(DQ_DA) == (3 / 4 + 1 / 4) / 2


@pytest.mark.parametrize(("z", "share"), [(8.0, 0.0), (9.5, 1.0)])
def test_no_slope_is_left_where_tanh_is_exactly_one(z: float, share: float) -> None:
    pre_activation = torch.full((3, 2), z, requires_grad=True)
    actions = pre_activation.tanh()
    actions.sum().backward()
    assert definitions.zero_derivative_share(actions.detach()) == share
    assert bool((pre_activation.grad == 0).all()) == bool(share)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (definitions.saturation_ratio, 1), (definitions.stuck_share, 2), (definitions.bang_bang_share, 2),
        (definitions.tanh_derivative, 1), (definitions.zero_derivative_share, 1), (definitions.z_abs_median, 1),
        (definitions.z_abs_max, 1), (definitions.z_range, 1), (definitions.dq_da_abs_mean, 1),
        (definitions.dq_da_sign_coherence, 1),
    ],
)  # fmt: skip
def test_a_stack_of_runs_is_measured_run_by_run(function: Callable[..., torch.Tensor], inputs: int) -> None:
    torch.manual_seed(0)
    stack = [torch.tanh(4 * torch.randn(3, 8, 5, 2)), torch.randn(3, 8, 5, 2)][:inputs]
    found = function(*stack, dim=1)
    assert found.shape == (3,)
    for run in range(3):
        assert float(function(*(t[run] for t in stack))) == pytest.approx(float(found[run]))
    assert function(*(t[..., 0] for t in stack), dim=1).shape == (3,)


def test_coherence_is_per_agent_and_output() -> None:
    slope = torch.ones(1, 4, 2, 1)
    slope[:, :, 1] = -1  # agents disagree, but each is pushed one way
    assert definitions.dq_da_sign_coherence(slope, dim=1) == 1
    slope[:, :2] *= -1  # now each is pushed up as often as down
    assert definitions.dq_da_sign_coherence(slope, dim=1) == 0


def test_a_step_is_shortened_to_its_share() -> None:
    steps, norms = torch.tensor([0.5, 0.001, 0.0, 0.5]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    factors = definitions.step_factor(steps, norms, count=100, relative=0.1)
    assert factors.tolist() == pytest.approx([0.2, 1.0, 1.0, 0.1 * 1e-3 * 10 / 0.5])


def test_a_norm_is_zero_only_where_everything_is() -> None:
    assert definitions.l2_norm([torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]) == 5
    assert definitions.l2_norm([torch.zeros(3)]) == definitions.l2_norm([]) == 0
    assert definitions.l2_norm([torch.zeros(3), torch.tensor([1e-30])]) > 0  # its square is 0 in float32
    assert float(definitions.l2_norm([torch.full((100,), 300.0, dtype=torch.float16)])) == pytest.approx(3000)
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([1.0, 2.0]), (3,))
    assert definitions.l2_norm([sparse]) == 3
