"""The judge of the comparison with other packages (``tests/benchmarks/run.py``) judges right; nothing is timed here."""

import importlib
import pathlib

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def suite():
    """The modules ``contests``, ``rivals`` and ``run``, which find each other as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(pathlib.Path(__file__).parent / "benchmarks")
        yield tuple(importlib.import_module(name) for name in ("contests", "rivals", "run"))


def test_residuals_and_jacobian_for_scipy_are_those_of_autograd(suite):
    contests, rivals, _ = suite
    X, y = contests.contest("Franke").scaled
    net = rivals.NumpyNet(X, y, hidden=3)
    theta = net.uniform(np.random.default_rng(0))

    def residuals(theta):
        first, bias, second, last = torch.split(theta, [6, 3, 3, 1])
        return torch.tanh(torch.tensor(X) @ first.view(3, 2).T + bias) @ second + last - torch.tensor(y)

    exact = torch.autograd.functional.jacobian(residuals, torch.tensor(theta)).numpy()
    np.testing.assert_allclose(net.jacobian(theta), exact, atol=1e-14)
    np.testing.assert_allclose(net.residuals(theta), residuals(torch.tensor(theta)).numpy(), atol=1e-13)
    np.testing.assert_allclose(net.residuals(2 * theta), residuals(torch.tensor(2 * theta)).numpy(), atol=1e-13)


def test_the_watch_counts_training_only_and_ends_at_target_or_limit(suite):
    contests, _, _ = suite
    now = [0.0]
    watch = contests.Watch(1.0, 10.0, lambda: now[0])
    now[0] = 4.0
    with watch.stopped():
        now[0] = 104.0
    watch.see(3.0)
    watch.see(5.0)
    assert (watch.seconds, watch.left, watch.error) == (4.0, 6.0, 3.0)
    with pytest.raises(contests.Over):
        watch.see(1.0)
    assert watch.result(watch.seconds)["seconds"] == 4.0
    late = contests.Watch(1.0, 10.0, lambda: now[0])
    now[0] += 11
    with pytest.raises(contests.Over):
        late.see(2.0)
    assert late.result(late.seconds)["seconds"] is None
    assert late.result(late.seconds)["error"] == 2.0


@pytest.mark.parametrize("name", ["LMClassifier(alpha=0)", "MLPClassifier, lbfgs", "MLPClassifier, adam"])
def test_a_race_of_classes_ends_at_the_log_loss(suite, name):
    contests, _, run = suite
    X = np.random.default_rng(0).normal(size=(60, 2))
    problem = contests.Contest("halves", X, (X[:, 0] > 0).astype(int), 4, target=0.05, limit=60.0, classes=2)
    record = run.race(problem, name, seed=0)
    assert 0 < record["error"] <= 0.05
    assert 0 < record["seconds"] < 60


@pytest.mark.parametrize("name", ["LMRegressor(alpha=0)", "scipy lm (MINPACK)", "scipy lm (MINPACK), starts of sklm"])
def test_a_race_ends_at_the_target_with_the_error_of_the_targets_as_they_are(suite, name):
    contests, _, run = suite
    X = np.linspace(-1, 1, 60)[:, None]
    problem = contests.Contest("line", X, 7 * np.sin(2 * X[:, 0]) + 100, 4, target=1e-3, limit=60.0)
    record = run.race(problem, name, seed=0)
    assert 0 < record["error"] <= 1e-3
    assert 0 < record["seconds"] < 60
    assert record["starts"] >= 1


def test_the_table_tells_medians_failures_and_what_is_not_installed(suite):
    _, rivals, run = suite
    first, second, third, fourth = list(rivals.RIVALS)[:4]
    runs = {
        first: [(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)],
        second: [(4.0, 0.5), (None, 9.0), (8.0, 0.25)],
        third: [(None, 9.0), (None, 7.0), (1.0, 0.5)],
    }
    records = [
        {
            "contest": "sinc",
            "title": "sinc",
            "limit": 30.0,
            "rival": name,
            "installed": True,
            "runs": [{"seconds": s, "error": e, "starts": 1, "compilation": 0.0} for s, e in values],
        }
        for name, values in runs.items()
    ]
    records.append({"contest": "sinc", "title": "sinc", "limit": 30.0, "rival": fourth, "installed": False})
    lines = run.table(records).splitlines()
    assert f"| {first} | 2 (1 to 3) | 1 | 3 of 3 | 0.5 (0.5 to 0.5) | 1 (1 to 1) |  |" in lines
    assert f"| {second} | 8 (4 to -) | 4 | 2 of 3 | 0.5 (0.25 to 9) | 1 (1 to 1) |  |" in lines
    assert f"| {third} | - (1 to -) | more than 15 | 1 of 3 | 7 (0.5 to 9) | 1 (1 to 1) |  |" in lines
    assert any(fourth in line and "not installed" in line for line in lines)


def test_a_missing_package_is_recorded(suite, monkeypatch):
    _, rivals, run = suite
    monkeypatch.setitem(rivals.EVERYBODY, "scipy trf", (rivals.RIVALS["scipy trf"][0], "a_package_that_is_not_there"))
    (record,) = run.measure(["Franke"], ["scipy trf"], seeds=1)
    assert record["installed"] is False
    assert "runs" not in record


def test_only_the_block_of_the_page_and_the_records_of_a_run_are_replaced(suite):
    _, rivals, run = suite
    page = f"above\n{run.BEGIN}\nold\n{run.END}\nbelow\n"
    assert run.replace_block(page, "new") == f"above\n{run.BEGIN}\n\nnew\n{run.END}\nbelow\n"
    with pytest.raises(ValueError, match="no block"):
        run.replace_block("above\n", "new")
    a, b = list(rivals.RIVALS)[:2]
    old = [{"contest": "Franke", "rival": b, "n": 0}, {"contest": "sinc", "rival": a, "n": 0}]
    new = [{"contest": "sinc", "rival": a, "n": 1}, {"contest": "sinc", "rival": b, "n": 1}]
    assert [(r["contest"], r["n"]) for r in run.merged(old, new)] == [("sinc", 1), ("sinc", 1), ("Franke", 0)]


def test_the_page_has_the_block(suite):
    *_, run = suite
    text = (run.ROOT / "docs" / "benchmarks.md").read_text()
    assert text.count(run.BEGIN) == text.count(run.END) == 1
