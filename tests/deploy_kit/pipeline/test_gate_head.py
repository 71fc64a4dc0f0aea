"""Training of the gate head, against plain autograd."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from deploy_kit.errors import OptionError
from deploy_kit.pipeline.gate_head import Attack, TrainingRows, train_epoch, worst_case_logits

SIZE = 12


def make_head(seed: int = 0) -> nn.Linear:
    head = nn.Linear(SIZE, 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(0.2 * torch.randn(1, SIZE, generator=generator))
        head.bias.copy_(torch.randn(1, generator=generator))
    return head


def make_rows(count: int, seed: int = 1) -> TrainingRows:
    generator = torch.Generator().manual_seed(seed)
    # Features of flights: far above 1, and below 0.
    features = 3 * torch.randn(count, SIZE, generator=generator)
    return TrainingRows(features, (torch.rand(count, 1, generator=generator) < 0.5).float())


def autograd_attack(head: nn.Linear, rows: TrainingRows, steps: int, epsilon: float, alpha: float) -> torch.Tensor:
    moved = rows.features.clone()
    for _ in range(steps):
        moved = moved.detach().requires_grad_(True)
        loss = binary_cross_entropy_with_logits(head(moved), rows.label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = rows.features + (moved.detach() + alpha * gradient.sign() - rows.features).clamp(-epsilon, epsilon)
    return moved.detach()


@pytest.mark.parametrize(("steps", "epsilon", "alpha"), [(3, 0.1, 0.01), (7, 0.05, 0.02), (1, 0.1, 0.5)])
def test_the_attack_is_that_of_autograd(steps: int, epsilon: float, alpha: float) -> None:
    head, rows = make_head(), make_rows(100)
    found = Attack(steps, epsilon, alpha).perturb(head, rows.features, rows.label)
    torch.testing.assert_close(found, autograd_attack(head, rows, steps, epsilon, alpha), rtol=0, atol=1e-6)


def test_the_attack_stays_in_its_ball_and_is_not_cut_to_the_unit_interval() -> None:
    head, rows = make_head(), make_rows(100)
    moved = Attack(50, 0.1, 0.01).perturb(head, rows.features, rows.label)
    shift = (moved - rows.features).abs()
    assert shift.max() <= 0.1 + 1e-5
    assert shift.min() > 0.09
    assert moved.max() > 5
    assert moved.min() < -5


def test_the_attack_starts_at_the_feature() -> None:
    head, rows = make_head(), make_rows(100)
    torch.testing.assert_close(Attack(0).perturb(head, rows.features, rows.label), rows.features, rtol=0, atol=0)
    one = Attack(1, 0.1, 0.01).perturb(head, rows.features, rows.label) - rows.features
    torch.testing.assert_close(one.abs(), torch.full_like(one, 0.01), rtol=0, atol=1e-6)


def test_the_attack_moves_positives_down_and_negatives_up() -> None:
    head, rows = make_head(), make_rows(100)
    with torch.no_grad():
        change = head(Attack().perturb(head, rows.features, rows.label)) - head(rows.features)
    assert (change[rows.label == 1] < 0).all()
    assert (change[rows.label == 0] > 0).all()


def test_the_worst_case_is_where_many_steps_end() -> None:
    head, rows = make_head(), make_rows(200)
    label = rows.label[:, 0].numpy() > 0.5
    with torch.no_grad():
        logit = head(rows.features)[:, 0].double().numpy()
        attacked = head(Attack(30, 0.1, 0.01).perturb(head, rows.features, rows.label))[:, 0].double().numpy()
    np.testing.assert_allclose(worst_case_logits(head, logit, label, 0.1), attacked, rtol=0, atol=1e-5)
    assert np.abs(attacked - logit).min() > 0.01


def test_an_epoch_is_that_of_a_plain_loop() -> None:
    rows, attack = make_rows(1000), Attack()
    head, plain = make_head(), make_head()
    optimizers = [torch.optim.Adam(module.parameters(), lr=1e-2) for module in (head, plain)]
    for epoch in range(2):
        loss = train_epoch(
            head, optimizers[0], rows, attack, 64, torch.Generator().manual_seed(epoch), progress=lambda _: None
        )
        losses = []
        for index in torch.randperm(1000, generator=torch.Generator().manual_seed(epoch)).split(64):
            batch = TrainingRows(rows.features[index], rows.label[index])
            value = binary_cross_entropy_with_logits(plain(autograd_attack(plain, batch, 3, 0.1, 0.01)), batch.label)
            optimizers[1].zero_grad()
            value.backward()
            optimizers[1].step()
            losses.append(value.item() * len(index))
        assert loss == pytest.approx(sum(losses) / 1000, rel=1e-5)
    torch.testing.assert_close(head.weight, plain.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(head.bias, plain.bias, rtol=0, atol=1e-5)
    assert (head.weight - make_head().weight).abs().max() > 0.1


def test_a_diverged_training_is_stopped() -> None:
    head, rows = make_head(), make_rows(100)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e38)
    with pytest.raises(OptionError, match="loss is not finite any more; lower --lr"):
        train_epoch(head, optimizer, rows, Attack(), 10, torch.Generator(), lambda _: None)


def test_small_batches_are_worked_on_by_one_thread_and_the_setting_comes_back() -> None:
    head, rows, before = make_head(), make_rows(20), torch.get_num_threads()
    seen: dict[int, int] = {}
    for batch_size in (10, 10_000):
        train_epoch(
            head,
            torch.optim.Adam(head.parameters()),
            rows,
            Attack(),
            batch_size,
            torch.Generator(),
            lambda _, size=batch_size: seen.update({size: torch.get_num_threads()}),
        )
    assert seen == {10: 1, 10_000: before}
    assert torch.get_num_threads() == before
