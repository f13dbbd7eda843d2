"""The discriminator's gradient, the reversal of the student's, and the state of a resume."""

import math

import torch
from objectives.objective_cases import RUN, encodings, one_token_each
from torch.nn import functional

from distill.objectives.adversarial import Adversarial
from distill.objectives.settings import AdversarialObjective


def adversary(**settings):
    return Adversarial(AdversarialObjective(weight=1.0, **settings), RUN)


def batch():
    student = one_token_each(0.0, 40.0, 80.0).float().requires_grad_()
    return student, encodings(
        student, one_token_each(90.0, 120.0, 150.0).float(), pair_codes=[0, 1, 0]
    )


def logits_and_languages(objective, data):
    vectors = torch.cat([data.student_BND[:, 0], data.teacher_BMD[:, 0]])
    # In the order of their names: en, so, sw.
    return objective.discriminator(vectors), torch.tensor([2, 1, 2, 0, 0, 0])


def test_reversal_rises_as_in_dann():
    objective = adversary()
    assert objective.reversal_at(0) == 0
    torch.testing.assert_close(objective.reversal_at(50), 2 / (1 + math.exp(-5)) - 1)
    torch.testing.assert_close(objective.reversal_at(100), math.tanh(5))


def test_an_indifferent_discriminator_has_the_entropy_of_its_languages():
    objective = adversary()
    for parameter in objective.discriminator.parameters():
        torch.nn.init.zeros_(parameter)
    student, data = batch()
    output = objective(data, 100)
    torch.testing.assert_close(output.loss_B, torch.full((3,), math.log(3)))
    output.loss_B.sum().backward()
    assert not student.grad.any()


def test_the_student_gets_the_reversed_gradient():
    student, data = batch()
    objective = adversary()
    output = objective(data, 50)
    logits, languages = logits_and_languages(objective, data)
    entropy = functional.cross_entropy(logits[:3], languages[:3], reduction="none")
    torch.testing.assert_close(output.loss_B, entropy)
    (gradient,) = torch.autograd.grad(entropy.sum(), student)
    output.loss_B.sum().backward()
    torch.testing.assert_close(student.grad, -objective.reversal_at(50) * gradient)
    assert student.grad.any()
    assert all(parameter.grad is None for parameter in objective.discriminator.parameters())


def test_the_discriminator_steps_on_the_mean_of_the_micro_batches_that_were_stepped_on():
    objective, expected = adversary(), adversary()
    _, data = batch()
    optimizer = torch.optim.AdamW(expected.discriminator.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(3):
        objective(data, step)
        objective.end_step(stepped=False)  # Some micro-batch was not finite.
        for _ in range(2):
            objective(data, step)
        objective.end_step(stepped=True)
        logits, languages = logits_and_languages(expected, data)
        optimizer.zero_grad()
        functional.cross_entropy(logits, languages).backward()
        optimizer.step()
    for ours, theirs in zip(
        objective.discriminator.parameters(), expected.discriminator.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_discriminator_learns_and_says_so():
    objective = adversary(learning_rate=0.02)
    _, data = batch()
    for step in range(100):
        output = objective(data, step)
        objective.end_step(stepped=True)
    assert output.metrics["accuracy"] == output.metrics["english_accuracy"] == 1
    assert output.metrics["discriminator_loss"] < 0.3


def test_a_restored_discriminator_goes_on_exactly():
    _, data = batch()

    def train(objective, steps):
        for step in steps:
            objective(data, step)
            objective.end_step(stepped=True)

    whole, first, second = adversary(), adversary(), adversary(learning_rate=1e-3)
    train(whole, range(4))
    train(first, range(2))
    second.load_state_dict(first.state_dict())
    train(second, range(2, 4))
    for ours, theirs in zip(
        second.discriminator.parameters(), whole.discriminator.parameters(), strict=True
    ):
        assert ours.equal(theirs)
