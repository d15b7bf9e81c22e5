"""Losses are equal to their loops, the same for any ranks, and safe with nothing valid."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import reference_data as reference
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceLoss

from pytc.config import Config, LossConfig, ModelConfig, TargetConfig
from pytc.losses import (
    LOSSES,
    SMOOTHING,
    LossTerms,
    balanced_bce,
    bce,
    build_loss,
    channel_losses,
    cross_entropy,
    deep_supervision_loss,
    dice,
    focal,
    mse,
    tversky,
)

SHAPE = (2, 3, 3, 4, 2)
BINARY = {
    "bce": (bce, partial(reference.voxel_sum, reference.voxel_bce)),
    "balanced_bce": (balanced_bce, partial(reference.balanced_bce, cap=10.0)),
    "tightly balanced_bce": (
        partial(balanced_bce, max_positive_weight=1.5),
        partial(reference.balanced_bce, cap=1.5),
    ),
    "focal": (
        partial(focal, gamma=1.5),
        partial(
            reference.voxel_sum,
            lambda x, t: (1 - reference.sigmoid(x if t else -x)) ** 1.5 * reference.voxel_bce(x, t),
        ),
    ),
    "mse": (mse, partial(reference.voxel_sum, lambda x, t: (reference.sigmoid(x) - t) ** 2)),
    "tversky": (partial(tversky, alpha=0.3), partial(reference.tversky, alpha=0.3)),
    "dice": (dice, partial(reference.tversky, alpha=0.5)),
}
# over classes: the target holds the number of the true channel
CLASSES = {
    "cross_entropy": (cross_entropy, reference.cross_entropy),
    "weighted cross_entropy": (
        partial(cross_entropy, class_weights=(0.5, 3.0, 1.0)),
        partial(reference.cross_entropy, weights=(0.5, 3.0, 1.0)),
    ),
    "class focal": (
        partial(focal, gamma=1.5, class_weights=(1.0, 0.0, 2.0)),
        partial(reference.cross_entropy, weights=(1.0, 0.0, 2.0), gamma=1.5),
    ),
    "class dice": (dice, partial(reference.class_tversky, alpha=0.5)),
    "class tversky": (tversky, partial(reference.class_tversky, alpha=0.3)),
}
ALL = {name: pair[0] for name, pair in (BINARY | CLASSES).items()}


def alone(loss):
    """A loss of one term."""
    return LossTerms({"loss": loss}, (1.0,))


def random_case(shape=SHAPE, seed=0, share=0.7):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator)
    target = (torch.rand(shape, generator=generator) < share).float()
    valid = torch.rand(shape, generator=generator) < 0.8
    valid[0, 1] = False  # a channel without a valid voxel
    target[1, 2], valid[1, 2] = 1.0, True  # one of a single class
    return logits, target, valid


def case_for(name, **options):
    """The same for a loss by name; one over classes takes the number of the true channel."""
    logits, target, valid = random_case(**options)
    if name in CLASSES:
        truth = torch.randint(0, 3, target[:, :1].shape, generator=torch.Generator().manual_seed(1))
        return logits, truth.float(), valid[:, :1]
    return logits, target, valid


def value_and_gradient(loss, logits, target, valid):
    logits = logits.clone().requires_grad_()
    total, count = loss(logits, target, valid)
    total.backward()
    return total.detach(), count, logits.grad


@pytest.mark.parametrize("name", BINARY)
def test_losses_match_the_loop(name):
    loss, loop = BINARY[name]
    for seed, share in ((0, 0.7), (1, 0.1)):
        case = random_case(seed=seed, share=share)
        total, count = loss(*case)
        expected_total, expected_count = loop(
            *(array.double().numpy() for array in case[:2]), case[2].numpy()
        )
        assert total.item() == pytest.approx(expected_total, rel=1e-5)
        assert count.item() == expected_count


@pytest.mark.parametrize("name", CLASSES)
def test_losses_over_classes_match_the_loop(name):
    loss, loop = CLASSES[name]
    case = case_for(name)
    total, count = loss(*case)
    expected = loop(*(array.double().numpy() for array in case[:2]), case[2].numpy())
    assert total.item() == pytest.approx(expected[0], rel=1e-5)
    assert count.item() == pytest.approx(expected[1])


def test_cross_entropy_is_bce_for_one_channel():
    one = random_case((2, 3, 3, 4, 2))
    one = tuple(array[:, :1] for array in one)
    assert cross_entropy(*one) == bce(*one)


def test_balanced_bce_gives_both_classes_the_same_weight():
    logits, target = torch.zeros(1, 1, 4, 5, 5), torch.zeros(1, 1, 4, 5, 5)
    target.view(-1)[:20] = 1
    total, _, gradient = value_and_gradient(
        balanced_bce, logits, target, torch.ones_like(target, dtype=torch.bool)
    )
    assert gradient.sum().abs() < 1e-4 and gradient[target == 1].mean() == -2.0
    assert total.item() == pytest.approx(160 * np.log(2), rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradient_matches_finite_differences(name):
    logits, target, valid = case_for(name)
    _, _, gradient = value_and_gradient(ALL[name], logits, target, valid)
    step = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    step /= step.norm()
    ahead, back = (ALL[name](logits + sign * 0.02 * step, target, valid)[0] for sign in (1, -1))
    assert (gradient * step).sum().item() == pytest.approx(
        ((ahead - back) / 0.04).item(), rel=0.02, abs=1e-3
    )


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_valid_does_not_count(name):
    logits, target, valid = case_for(name)
    total, count, gradient = value_and_gradient(ALL[name], logits, target, valid)
    invalid = ~valid.expand_as(logits)
    assert invalid.any() and (gradient[invalid] == 0).all()
    other = torch.where(valid, target, 1 - target)
    if name in CLASSES:
        other = target.masked_fill(~valid, -1)
    changed, changed_count = ALL[name](torch.where(invalid, 30.0, logits), other, valid)
    torch.testing.assert_close(changed, total)
    assert changed_count == count


@pytest.mark.parametrize("name", ALL)
def test_nothing_valid_is_no_loss_and_no_gradient(name):
    logits, target, valid = case_for(name)
    logits = logits.requires_grad_()
    loss = deep_supervision_loss(logits, [(target, torch.zeros_like(valid))], alone(ALL[name]))
    loss.total.backward()
    assert loss.total == 0 and loss.scales == loss.terms == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_half_precision_logits_are_computed_in_float32(name):
    logits, target, valid = case_for(name)
    for dtype in (torch.bfloat16, torch.float16):
        low = logits.to(dtype)
        expected, count = ALL[name](low.float(), target, valid)
        with torch.autocast("cpu", torch.bfloat16):
            total, low_count = ALL[name](low, target, valid)
        assert total.dtype == low_count.dtype == torch.float32
        assert torch.equal(total, expected) and torch.equal(low_count, count)


@pytest.mark.parametrize("name", ALL)
def test_extreme_logits_stay_finite(name):
    logits, target, valid = case_for(name)
    total, _, gradient = value_and_gradient(ALL[name], 6e4 * logits.sign(), target, valid)
    assert torch.isfinite(total) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ALL)
def test_two_ranks_of_one_sample_are_one_rank_of_two(name):
    """The mean of the ranks' losses and gradients is that of the whole batch.

    That holds whatever is masked where.
    """
    logits, target, valid = case_for(name)
    valid[1] = torch.rand(valid[1].shape, generator=torch.Generator().manual_seed(2)) < 0.2
    config = LossConfig(terms=("bce", "dice"), weights=(1.0, 0.5))
    losses = [alone(ALL[name])]
    if name not in CLASSES:
        losses.append(build_loss(config))
    for loss in losses:
        whole = logits.clone().requires_grad_()
        total = deep_supervision_loss(whole, [(target, valid)], loss).total
        total.backward()
        counts = sum(
            loss.sums(logits[r : r + 1], target[r : r + 1], valid[r : r + 1])[1] for r in range(2)
        )
        apart = logits.clone().requires_grad_()
        parts = [
            deep_supervision_loss(
                apart[r : r + 1],
                [(target[r : r + 1], valid[r : r + 1])],
                loss,
                reduce_count=lambda count: (counts / 2).view_as(count),  # noqa: B023
            ).total
            for r in range(2)
        ]
        (sum(parts) / 2).backward()
        torch.testing.assert_close(sum(parts) / 2, total, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(apart.grad, whole.grad, rtol=1e-5, atol=1e-8)


def test_built_loss_has_an_entry_for_each_term():
    case = random_case()
    config = LossConfig(
        terms=("bce", "tversky", "focal", "balanced_bce"),
        weights=(2.0, 0.5, 1.0, 1.0),
        tversky_alpha=0.2,
        focal_gamma=1.0,
        max_positive_weight=3.0,
    )
    sums, counts = build_loss(config).sums(*case)
    parts = [
        bce(*case),
        tversky(*case, alpha=0.2),
        focal(*case, gamma=1.0),
        balanced_bce(*case, 3.0),
    ]
    torch.testing.assert_close(sums, torch.stack([part[0] for part in parts]))
    torch.testing.assert_close(counts, torch.stack([part[1] for part in parts]))
    loss = deep_supervision_loss(case[0], [case[1:]], build_loss(config))
    each = torch.stack([total / count for total, count in parts])
    torch.testing.assert_close(loss.terms, each)
    torch.testing.assert_close(loss.total, (each * torch.tensor(config.weights)).sum())
    torch.testing.assert_close(build_loss(config).value(sums, counts), loss.total)


def test_each_term_of_the_config_can_be_built():
    for term in LOSSES:
        case = case_for(term)
        sums, counts = build_loss(LossConfig(terms=(term,), focal_gamma=1.5)).sums(*case)
        torch.testing.assert_close((sums[0], counts[0]), ALL[term](*case))


def test_deep_supervision_weighs_the_scales():
    cases = [random_case((2, 3, n, n, n), seed=n) for n in (8, 4, 2)]
    # the order of the dict is no matter
    outputs = {"ds_1": cases[1][0], "output": cases[0][0], "ds_2": cases[2][0]}
    targets = [case[1:] for case in cases]
    each = [total / count for total, count in (bce(*case) for case in cases)]
    loss = deep_supervision_loss(outputs, targets, alone(bce))
    torch.testing.assert_close(loss.total, each[0] + each[1] / 2 + each[2] / 4)
    torch.testing.assert_close(loss.scales, torch.stack(each))
    torch.testing.assert_close(loss.terms, each[0][None])
    loss = deep_supervision_loss(outputs, targets, alone(bce), weights=(0.0, 1.0, 3.0))
    torch.testing.assert_close(loss.total, each[1] + 3 * each[2])


def test_plain_tensor_is_the_only_scale():
    logits, target, valid = random_case()
    loss = deep_supervision_loss(logits.requires_grad_(), [(target, valid)], alone(bce))
    expected = F.binary_cross_entropy_with_logits(logits[valid], target[valid])
    torch.testing.assert_close(loss.total, expected)
    assert loss.scales.shape == loss.terms.shape == (1,) and loss.total.requires_grad
    assert not loss.scales.requires_grad and not loss.terms.requires_grad


def test_what_does_not_fit_is_refused():
    logits, target, valid = random_case()
    with pytest.raises(ValueError, match="logits' shape"):
        bce(logits, target[:, :2], valid)
    with pytest.raises(ValueError, match="logits' shape"):
        cross_entropy(logits, target, valid)
    with pytest.raises(ValueError, match="2 targets, 1 weights"):
        deep_supervision_loss(logits, [(target, valid)] * 2, alone(bce))
    with pytest.raises(ValueError, match="output, ds_1"):
        deep_supervision_loss(
            {"output": logits, "coarse": logits}, [(target, valid)] * 2, alone(bce)
        )
    with pytest.raises(ValueError, match="3 weights"):
        deep_supervision_loss(logits, [(target, valid)], alone(bce), weights=(1.0, 1.0, 1.0))


def test_losses_over_classes_are_those_of_monai():
    """With all voxels labelled and every class present; only the smoothing differs: ours adds one
    voxel to both halves of the ratio, MONAI 1e-5.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 4, 24, 24, 24), generator=generator)
    target = torch.randint(0, 4, (2, 1, 24, 24, 24), generator=generator)
    valid = torch.ones_like(target, dtype=torch.bool)
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    options = {"softmax": True, "to_onehot_y": True}
    config = LossConfig(terms=("dice", "cross_entropy"), weights=(1.0, 1.0))
    config_weights = replace(config, class_weights=tuple(weights.tolist()))
    ours, weighted = (
        deep_supervision_loss(logits, [(target, valid)], build_loss(c))
        for c in (config, config_weights)
    )
    dice_loss = DiceLoss(**options)(logits, target)
    assert ours.terms[0].item() == pytest.approx(dice_loss.item(), abs=4e-4)
    same = DiceLoss(**options, smooth_nr=2 * SMOOTHING, smooth_dr=2 * SMOOTHING)(logits, target)
    assert ours.terms[0].item() == pytest.approx(same.item(), abs=1e-6)
    expected = DiceCELoss(**options)(logits, target)
    assert ours.total.item() == pytest.approx(expected.item(), abs=4e-4)
    entropy = torch.nn.CrossEntropyLoss(weight=weights)(logits, target[:, 0])
    assert weighted.terms[1].item() == pytest.approx(entropy.item(), rel=1e-5)


def test_one_class_of_two_by_softmax_is_a_sigmoid_of_the_difference():
    logits, target, valid = (part[:, :1] for part in random_case())
    both = torch.cat((torch.zeros_like(logits), logits), dim=1)
    for over_classes, of_one in ((cross_entropy, bce), (focal, focal)):
        expected = of_one(logits, target, valid)
        torch.testing.assert_close(over_classes(both, target, valid), expected)


def test_a_class_has_no_loss_of_its_own_but_a_channel_has():
    logits, target, valid = case_for("class dice")
    terms = LossTerms({"dice": dice, "cross_entropy": cross_entropy}, (1.0, 1.0))
    assert channel_losses(logits, target, valid, terms) == []
    logits, target, valid = random_case()
    terms = LossTerms({"dice": dice, "bce": bce}, (1.0, 0.5))
    for channel, value in enumerate(channel_losses(logits, target, valid, terms)):
        part = slice(channel, channel + 1)
        case = logits[:, part], target[:, part], valid[:, part]
        pairs = dice(*case), bce(*case)
        expected = [float(total / count.clamp(min=1)) for total, count in pairs]
        assert value == pytest.approx(expected[0] + 0.5 * expected[1], rel=1e-5)


@pytest.mark.parametrize(
    "name, near",
    [
        ("DiceLoss", "dice"),
        ("CrossEntropyLoss", "cross_entropy"),
        ("FocalLoss", "focal"),
        ("TverskyLoss", "tversky"),
        ("cros_entropy", "cross_entropy"),
        ("balanced-bce", "balanced_bce"),
    ],
)
def test_the_name_of_another_librarys_loss_leads_to_ours(name, near):
    with pytest.raises(ValueError, match=f"got '{name}'; did you mean '{near}'"):
        LossConfig(terms=(name,))


def test_loss_terms_that_do_not_fit_the_target_are_refused():
    classes = TargetConfig(kind="classes", classes=3)
    model = ModelConfig(out_channels=3)
    fits = LossConfig(terms=("cross_entropy",))
    Config(target=classes, model=model, loss=replace(fits, class_weights=(0.0, 1.0, 2.0)))
    of_classes = ", ".join(name for name, row in LOSSES.items() if row.of_classes)
    for loss, message in (
        (LossConfig(terms=("bce",)), f"loss terms from {of_classes} for classes, got 'bce'"),
        (replace(fits, class_weights=(1.0, 2.0)), "class_weights for 3 classes"),
        (replace(fits, class_weights=(0.0, 0.0, 0.0)), "one of them above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(target=classes, model=model, loss=loss)
    with pytest.raises(ValueError, match="bce instead of cross_entropy for 6 channels"):
        Config(loss=fits)
    with pytest.raises(ValueError, match="class_weights with target.kind classes"):
        Config(loss=LossConfig(class_weights=(1.0,) * 6))
    with pytest.raises(ValueError, match="loss.class_weights of 0 or more"):
        replace(fits, class_weights=(1.0, 1.0, -1.0))
    with pytest.raises(ValueError, match="each loss term once"):
        LossConfig(terms=("dice", "dice"), weights=(1.0, 1.0))
