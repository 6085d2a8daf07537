import pytest

from sklm.optim import Status

#: stable codes: they are pickled and compared
CODES = {
    "RUNNING": 0,
    "GRADIENT": 1,
    "STEP": 2,
    "DECREASE": 3,
    "TARGET": 4,
    "EXACT": 5,
    "DAMPING": 6,
    "MAX_ITER": 7,
    "TIME": 8,
    "VALIDATION": 9,
    "INTERRUPTED": 10,
    "CALLBACK": 11,
    "NONFINITE": 12,
    "SUPERSEDED": 13,
    "DERIVATIVE": 14,
    "STALLED": 15,
    "DIVERGED": 16,
    "NEGLIGIBLE": 17,
}
LIMITS = {"RUNNING", "MAX_ITER", "TIME", "INTERRUPTED", "NONFINITE", "DERIVATIVE", "STALLED", "DIVERGED"}


def test_codes_are_stable():
    assert {status.name: int(status) for status in Status} == CODES


@pytest.mark.parametrize("status", Status)
def test_every_code_has_a_sentence_of_its_own(status):
    assert status.message.endswith(".")
    assert sum(other.message == status.message for other in Status) == 1


@pytest.mark.parametrize("name", CODES)
def test_converged_unless_a_limit_a_person_or_a_fault_ended_it(name):
    assert Status[name].converged == (name not in LIMITS)
