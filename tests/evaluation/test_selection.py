"""The best step and early stopping."""

from __future__ import annotations

import pytest

from distill.errors import InputError
from distill.evaluation.selection import BestStep


def results(step, value):
    return [
        {"system": "teacher_zero_shot", "step": step, "means": {"all": {"AP": 0.99}}},
        {"system": "student", "step": step, "means": {"all": {"AP": value}, "low_resource": {}}},
    ]


def follow(selection, values):
    return [
        (selection.update(results(step, value)), selection.should_stop)
        for step, value in enumerate(values)
    ]


def test_stops_after_patience_evaluations_without_a_new_best():
    selection = BestStep(patience=2)
    assert follow(selection, [0.3, 0.5, 0.5, 0.6, 0.4, 0.6]) == [
        *((True, False), (True, False), (False, False), (True, False), (False, False)),
        (False, True),
    ]
    assert (selection.best_step, selection.best_value) == (3, 0.6)


def test_never_stops_without_patience():
    selection = BestStep()
    assert not any(stop for _, stop in follow(selection, [0.5, 0.4, 0.3, 0.2, 0.1]))


def test_a_resumed_run_decides_as_the_uninterrupted_one():
    values = [0.3, 0.5, 0.4, 0.45]
    whole, first, second = BestStep(patience=2), BestStep(patience=2), BestStep(patience=2)
    expected = follow(whole, values)
    before = follow(first, values[:3])
    second.load_state_dict(first.state_dict())
    after = [(second.update(results(3, values[3])), second.should_stop)]
    assert before + after == expected
    assert second.state_dict() == whole.state_dict()


def test_figures_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="no AP of student over low_resource"):
        BestStep(group="low_resource").update(results(0, 0.5))
    with pytest.raises(InputError, match="no RR of student"):
        BestStep(measure="RR").update(results(0, 0.5))
    with pytest.raises(InputError, match="patience"):
        BestStep(patience=-1)
