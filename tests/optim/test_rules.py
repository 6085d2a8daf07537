"""Rules that exclude each other."""

import pytest

from sklm.optim import (
    Armijo,
    Bold,
    Geodesic,
    Layers,
    Mask,
    MiniBatches,
    RandomSubset,
    Stopping,
    levenberg_marquardt,
)

from ..problems import SURFACE


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"line_search": Armijo()}, "line_search"),
        ({"acceptance": Bold(reference="current")}, "acceptance"),
        ({"n_dampings": 2}, "n_dampings"),
        ({"acceleration": ("geodesic", "momentum")}, "momentum"),
        ({"param_selection": RandomSubset()}, "param_selection"),
        ({"param_selection": Layers(), "n_dampings": 3}, "n_dampings above 1 and a param_selection"),
    ],
    ids=str,
)
def test_what_averaged_batches_cannot_have(options, named):
    batches = MiniBatches(60, 20, 0, memory=100)
    with pytest.raises(ValueError, match=f"{named}.* cannot be used where mini-batches are averaged"):
        levenberg_marquardt(SURFACE.problem(), SURFACE.starts(), batches=batches, **options)


@pytest.mark.parametrize(
    "options", [{"acceleration": Geodesic()}, {"param_selection": Mask([k > 3 for k in range(39)])}], ids=str
)
def test_what_averaged_batches_can_have(options):
    problem, theta = SURFACE.problem(), SURFACE.starts(near=1.0)
    solution = levenberg_marquardt(
        problem, theta, batches=MiniBatches(60, 20, 0, memory=100), stopping=Stopping(max_iter=10), **options
    )
    assert solution.score[0] < 0.7 * float(problem.evaluate(theta).objective)
    if "param_selection" in options:
        assert (solution.theta[0, :4] == theta[0, :4]).all()


@pytest.mark.parametrize("n_dampings", [0, -1, 2.0, True, None])
def test_number_of_dampings(n_dampings):
    with pytest.raises(ValueError, match="n_dampings must be a positive integer"):
        levenberg_marquardt(SURFACE.problem(), SURFACE.starts(), n_dampings=n_dampings)
