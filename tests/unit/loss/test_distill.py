"""The generalised Jensen-Shannon divergence by hand, its ends, and what is known of its top-k form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tunesmith.loss.distill import (
    distillation_function,
    distillation_loss,
    jensen_shannon,
    teacher_topk,
    topk_distillation_function,
    topk_distillation_loss,
    with_rest,
)

BETAS = [0.0, 0.3, 1.0]


def _logits(seed: int, tokens: int = 5, vocabulary: int = 11) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list((torch.randn(2, tokens, vocabulary, generator=generator).double() * 2).unbind())


def test_two_outcomes_by_hand() -> None:
    """Student (0.5, 0.5), teacher (0.9, 0.1): mixture (0.7, 0.3); 0.116322 and 0.087177 nats to it."""
    student, teacher = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[0.9, 0.1]]).double().log()
    assert float(jensen_shannon(student, teacher, 0.5)) == pytest.approx((0.116322 + 0.087177) / 2, abs=1e-6)
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    reverse = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert float(jensen_shannon(student, teacher, 0.0)) == pytest.approx(forward)
    assert float(jensen_shannon(student, teacher, 1.0)) == pytest.approx(reverse)


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_are_those_of_the_value(beta: float) -> None:
    student, teacher = _logits(0)
    assert torch.autograd.gradcheck(
        lambda x: distillation_loss(x, teacher, beta=beta, temperature=1.5), [student.clone().requires_grad_()]
    )
    logp, ids = teacher_topk(teacher, 4)
    assert torch.autograd.gradcheck(
        lambda x: topk_distillation_loss(x, logp, ids, beta=beta), [student.clone().requires_grad_()]
    )


@pytest.mark.parametrize("beta", BETAS)
def test_equal_distributions_have_no_divergence_and_no_gradient(beta: float) -> None:
    student = _logits(1)[0].requires_grad_()
    loss_C = distillation_loss(student, student.detach() + 3.0, beta=beta)
    loss_C.sum().backward()
    assert float(loss_C.detach().abs().max()) < 1e-12
    assert float(student.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_top_k_form_grows_into_the_full_one(beta: float, temperature: float) -> None:
    """Never above it; more tokens never lower it; with one token left over, that token is the rest: equal."""
    student, teacher = _logits(2)
    settings = {"beta": beta, "temperature": temperature}
    full_C = distillation_loss(student, teacher, **settings)
    tops = [teacher_topk(teacher, k, temperature=temperature) for k in range(1, 11)]
    by_k = [topk_distillation_loss(student, *top, **settings) for top in tops]
    for smaller, larger in itertools.pairwise(by_k):
        assert (smaller <= larger + 1e-12).all()
    assert (by_k[0] < full_C).all()
    torch.testing.assert_close(by_k[-1], full_C)


def test_the_rest_holds_the_mass_that_is_missing() -> None:
    logp = torch.tensor([[0.5, 0.25], [0.75, 0.25]]).double().log()
    assert with_rest(logp).exp()[0].tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert float(with_rest(logp).exp()[1, 2]) < 1e-15  # nothing is left over, and its logarithm is finite
    assert torch.isfinite(with_rest(logp)).all()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_certain_and_opposite_distributions_stay_finite(beta: float, k: int) -> None:
    """All mass on one token each, not the same one, in fp32; k = 8 is the whole vocabulary."""
    student, teacher = torch.zeros(1, 8, requires_grad=True), torch.zeros(1, 8)
    teacher[0, 2] = 500.0
    peaked = student + torch.nn.functional.one_hot(torch.tensor([5]), 8) * 500.0
    full = distillation_loss(peaked, teacher, beta=beta)
    short = topk_distillation_loss(peaked, *teacher_topk(teacher, k), beta=beta)
    (gradient,) = torch.autograd.grad((full + short).sum(), student)
    assert torch.isfinite(full).all()
    assert torch.isfinite(short).all()
    assert torch.isfinite(gradient).all()


def test_a_row_in_chunks_is_the_row() -> None:
    """The scorer hands over a few tokens at a time and says which: the teacher's part is the same."""
    student, teacher = _logits(3, tokens=7)
    targets = torch.zeros(7, dtype=torch.long)
    logp, ids = teacher_topk(teacher, 3)
    functions = {
        distillation_function(lambda part: teacher[part], beta=0.4, temperature=2.0): distillation_loss(
            student, teacher, beta=0.4, temperature=2.0
        ),
        topk_distillation_function(logp, ids, beta=0.4): topk_distillation_loss(student, logp, ids, beta=0.4),
    }
    for function, whole in functions.items():
        parts = [slice(start, start + 3) for start in (0, 3, 6)]
        chunks = [function(student[part], targets[part], part)["divergence"] for part in parts]
        torch.testing.assert_close(torch.cat(chunks), whole)


def test_no_tokens_have_no_divergence() -> None:
    empty = torch.zeros(0, 11, requires_grad=True)
    assert distillation_loss(empty, empty.detach()).shape == (0,)
    logp, ids = teacher_topk(empty.detach(), 4)
    topk_distillation_loss(empty, logp, ids).sum().backward()
