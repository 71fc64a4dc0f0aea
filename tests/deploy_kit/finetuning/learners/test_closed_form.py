"""The closed form against PGD iterated by autograd, and its training against torch's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from deploy_kit.data.blocks import signed_rows
from deploy_kit.errors import OptionError
from deploy_kit.finetuning.learners.attack import Attack, Norm, worst_case_logits
from deploy_kit.finetuning.learners.closed_form import ClosedFormLearner
from deploy_kit.finetuning.learners.cuda import CudaLearner
from deploy_kit.finetuning.learners.iterated import IteratedLearner
from deploy_kit.finetuning.learners.protocol import Learner

SIZE = 12


def autograd_attack(head: nn.Linear, features: torch.Tensor, label: torch.Tensor, attack: Attack) -> torch.Tensor:
    """PGD as in textbooks: the loss' gradient by autograd, a step, the projection."""
    moved = features.clone()
    for _ in range(attack.steps):
        moved = moved.detach().requires_grad_(True)
        loss = binary_cross_entropy_with_logits(head(moved), label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        if attack.norm is Norm.LINF:
            shift = moved.detach() + attack.alpha * gradient.sign() - features
            moved = features + shift.clamp(-attack.epsilon, attack.epsilon)
        else:
            length = gradient.double().norm(dim=1, keepdim=True)  # the squares of small gradients underflow
            unit = torch.where(length > 0, gradient / length, torch.zeros_like(gradient)).float()
            shift = moved.detach() + attack.alpha * unit - features
            moved = features + shift * (attack.epsilon / shift.norm(dim=1, keepdim=True)).clamp(max=1).nan_to_num(0)
        if attack.unit_interval:
            moved = moved.clamp(0, 1)
    return moved.detach()


def make_head(scale: float = 0.2, seed: int = 0, zeros: int = 0, bias: float = 0.3) -> nn.Linear:
    head = nn.Linear(SIZE, 1)
    with torch.no_grad():
        head.weight.copy_(scale * torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed)))
        head.weight[0, :zeros] = 0
        head.bias.fill_(bias)
    return head


def make_rows(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Features of flights: far above 1, and below 0.
    return 3 * torch.randn(count, SIZE, generator=generator), (torch.rand(count, 1, generator=generator) < 0.5).float()


def rounding_of(features: torch.Tensor, attack: Attack) -> torch.Tensor:
    """Return by how much features moved in float32 may be off, broadcastable to (B, F).

    Each step rounds the moved feature, not its shift, by at most 2⁻²⁴ of its size: once where the shift is small beside
    the feature, twice on average where it is not. In L2 the row's other features count too, by the norm.
    """
    size = features.abs() if attack.norm is Norm.LINF else features.norm(dim=1, keepdim=True)
    return 2 * (attack.steps + 1) * 2**-24 * (size + attack.reach)


def vector_of(head: nn.Linear) -> np.ndarray:
    return torch.cat([head.weight[0], head.bias]).detach().numpy()


def as_bool(label: torch.Tensor) -> np.ndarray:
    return label[:, 0].numpy() > 0.5


attacks = st.builds(
    Attack,
    steps=st.integers(0, 8),
    epsilon=st.floats(0, 0.4),
    alpha=st.floats(0, 0.2),
    norm=st.sampled_from(Norm),
)
# Scales up to 6 put logits of ±60 and more: saturated rows are among them.
heads = st.builds(
    make_head,
    scale=st.sampled_from([0.02, 0.2, 1.0, 6.0]),
    seed=st.integers(0, 50),
    zeros=st.integers(0, SIZE),
    bias=st.floats(-3, 3),
)


@settings(max_examples=150, deadline=None)
@given(head=heads, attack=attacks, seed=st.integers(0, 50))
@example(head=make_head(0.02, seed=4, zeros=8, bias=-1.6), attack=Attack(8, 0.34, 7.5e-5), seed=12)  # off by 3.8e-6
def test_the_closed_form_is_iterated_pgd(head: nn.Linear, attack: Attack, seed: int) -> None:
    features, label = make_rows(40, seed)
    with torch.no_grad():
        logit = head(features)[:, 0].numpy()
    # Half-way rows whose saturation hangs on the last bit are left out, and those that underflow as they move.
    clear = (np.abs(logit - 24 * np.log(2)) > 1e-3) & (logit > -80)
    features, label, logit = features[clear], label[clear], logit[clear]
    moved = autograd_attack(head, features, label, attack)
    rounding = rounding_of(features, attack)
    assert ((attack.perturb(head, features, label) - moved).abs() <= rounding).all()

    weight = head.weight[0].detach().double().numpy()
    with torch.no_grad():
        expected = head(moved)[:, 0].double().numpy()
    scale = 1 + np.abs(weight).sum()
    np.testing.assert_allclose(
        attack.logits(weight, logit.astype(np.float64), as_bool(label)), expected, rtol=0, atol=3e-5 * scale
    )
    held = ((logit > 24 * np.log(2)) & as_bool(label)) | (attack.reach == 0)
    np.testing.assert_allclose(moved[held], features[held], rtol=0, atol=1e-6)
    if (weight != 0).any() and attack.norm is Norm.LINF:
        error = ((moved - features).abs() - attack.reach).abs()
        assert (error <= rounding)[~held][:, weight != 0].all()


@settings(max_examples=80, deadline=None)
@given(head=heads, attack=attacks, seed=st.integers(0, 50))
def test_loss_and_gradient_are_those_of_autograd(head: nn.Linear, attack: Attack, seed: int) -> None:
    features, label = make_rows(40, seed)
    with torch.no_grad():
        logit = head(features)[:, 0]
    clear = ((logit - 24 * np.log(2)).abs() > 1e-3) & (logit > -80)
    features, label = features[clear], label[clear]
    loss = binary_cross_entropy_with_logits(head(autograd_attack(head, features, label, attack)), label)
    loss.backward()
    expected = torch.cat([head.weight.grad[0], head.bias.grad]).numpy()

    learner = ClosedFormLearner(vector_of(head), attack, 64, lr=1e-3)
    total = learner.learn(signed_rows(features.numpy(), as_bool(label)))
    assert total / len(features) == pytest.approx(loss.item(), rel=2e-5, abs=1e-6)
    np.testing.assert_allclose(learner._adam.gradient, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("attack", [Attack(), Attack(4, 0.05, 0.02), Attack(0)])
def test_training_is_that_of_autograd_and_torchs_adam(attack: Attack, norm: Norm) -> None:
    attack = Attack(attack.steps, attack.epsilon, attack.alpha, norm)
    features, label = make_rows(1000)
    head = make_head()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    learner = ClosedFormLearner(vector_of(head), attack, 64, lr=1e-2)
    for _ in range(2):
        losses = 0.0
        for rows, wanted in zip(features.split(64), label.split(64), strict=True):
            loss = binary_cross_entropy_with_logits(head(autograd_attack(head, rows, wanted, attack)), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(rows)
        assert learner.learn(signed_rows(features.numpy(), as_bool(label))) == pytest.approx(losses, rel=1e-5)
    np.testing.assert_allclose(learner.vector, vector_of(head), rtol=0, atol=2e-5)
    assert np.abs(learner.vector - vector_of(make_head())).max() > 0.1


def on_device(vector: np.ndarray, attack: Attack, batch_size: int, lr: float, device: str = "cpu") -> CudaLearner:
    return CudaLearner(vector, attack, batch_size, lr, device, 4 * batch_size)


def in_blocks(learner: Learner, rows: np.ndarray, size: int = 256) -> float:
    return sum(learner.learn(rows[start : start + size]) for start in range(0, len(rows), size))


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("kind", [IteratedLearner, on_device])
def test_all_learners_train_the_same_head(kind: Callable[..., Learner], norm: Norm) -> None:
    features, label = make_rows(1000)
    rows = signed_rows(features.numpy(), as_bool(label))
    rows[0, :-1] *= 100  # a saturated row
    one, other = (make(vector_of(make_head()), Attack(norm=norm), 64, 1e-2) for make in (ClosedFormLearner, kind))
    for _ in range(2):
        assert in_blocks(one, rows) == pytest.approx(in_blocks(other, rows), rel=1e-5)
    np.testing.assert_allclose(one.vector, other.vector, rtol=0, atol=2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_on_cuda_trains_the_same_head() -> None:
    features, label = make_rows(5000)
    rows = signed_rows(features.numpy(), as_bool(label))
    one = ClosedFormLearner(vector_of(make_head()), Attack(), 64, 1e-2)
    other = on_device(vector_of(make_head()), Attack(), 64, 1e-2, "cuda")
    assert in_blocks(one, rows) == pytest.approx(in_blocks(other, rows), rel=1e-4)
    np.testing.assert_allclose(one.vector, other.vector, rtol=0, atol=1e-4)


def test_the_origins_cut_keeps_features_in_the_unit_interval_and_has_no_closed_form() -> None:
    attack, head = Attack(unit_interval=True), make_head()
    features, label = make_rows(200)
    moved = attack.perturb(head, features, label)
    torch.testing.assert_close(moved, autograd_attack(head, features, label, attack), rtol=0, atol=1e-6)
    assert (float(moved.min()), float(moved.max())) == (0.0, 1.0)
    for use in (
        lambda: ClosedFormLearner(vector_of(head), attack, 64, 1e-3),
        lambda: attack.logits(np.ones(3), np.ones(2), np.ones(2, bool)),
    ):
        with pytest.raises(OptionError, match="there is no closed form"):
            use()


@pytest.mark.parametrize("kind", [ClosedFormLearner, IteratedLearner, on_device])
def test_a_restored_learner_goes_on_as_if_never_stopped(kind: Callable[..., Learner]) -> None:
    features, label = make_rows(640)
    rows = signed_rows(features.numpy(), as_bool(label))
    straight = kind(vector_of(make_head()), Attack(), 64, 1e-2)
    in_blocks(straight, rows)
    resumed = kind(vector_of(make_head(seed=5)), Attack(), 64, 1e-2)
    resumed.restore(straight.state())
    assert in_blocks(straight, rows) == in_blocks(resumed, rows)
    np.testing.assert_array_equal(straight.vector, resumed.vector)


@pytest.mark.parametrize("norm", list(Norm))
def test_the_worst_case_is_where_many_steps_end(norm: Norm) -> None:
    head = make_head()
    features, label = make_rows(200)
    attack = Attack(30, 0.1, 0.01, norm)
    weight = head.weight[0].detach().double().numpy()
    with torch.no_grad():
        logit = head(features)[:, 0].double().numpy()
        attacked = head(attack.perturb(head, features, label))[:, 0].double().numpy()
    np.testing.assert_allclose(worst_case_logits(weight, logit, as_bool(label), attack), attacked, rtol=0, atol=1e-5)
    assert np.abs(attacked - logit).min() > 0.01


def test_the_reach_is_the_steps_or_the_radius() -> None:
    assert Attack(3, 0.1, 0.01).reach == pytest.approx(0.03)
    assert Attack(30, 0.1, 0.01).reach == 0.1
    assert Attack(3, 0.05, 0.02).reach == 0.05
    assert Attack(0).reach == 0


def test_a_saturated_row_is_not_moved() -> None:
    # z = 20 for the positives: their sigmoid is exactly 1, so PGD has no gradient to follow although 0.4 · ‖w‖₁ = 24.
    vector = np.array([60.0, 0.0, 0.0], np.float32)
    features = np.array([[1 / 3, 0.0], [0.2, 0.0]], np.float32)
    for label, expected in (([True, True], [0.0, 12.0]), ([False, False], [44.0, 36.0])):
        learner = ClosedFormLearner(vector, Attack(1, 0.4, 0.4), 2, 1e-3)
        total = learner.learn(signed_rows(features, np.array(label)))
        assert total == pytest.approx(sum(expected), abs=1e-4)
