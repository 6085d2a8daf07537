import numpy as np
import pytest

from sklm.architectures import ACTIVATIONS, MLP, STARTS, Inputs

KINDS = ["auto", *sorted(STARTS)]


def draw(X, *, init, n_init=1, seed=0, hidden=(6, 4), activation="tanh", n_outputs=2):
    """Start vectors (n_init, P), each from a generator of its own."""
    architecture = MLP(hidden, activation)
    network = architecture.build(X.shape[1], n_outputs)
    generators = [np.random.default_rng([seed, k]) for k in range(n_init)]
    return network, architecture.starts(network, init, Inputs.of(X), generators)


@pytest.fixture
def X():
    return np.random.default_rng(5).normal([0, 10, -3], [1, 5, 0.1], size=(30, 3))


@pytest.mark.parametrize("hidden", [(), (1,), (6,), (6, 4)])
@pytest.mark.parametrize("init", KINDS)
def test_shape_and_start_k_does_not_depend_on_how_many_there_are(init, hidden, X):
    network, many = draw(X, init=init, n_init=5, hidden=hidden)
    _, few = draw(X, init=init, n_init=2, hidden=hidden)
    assert many.shape == (5, network.n_parameters)
    assert many.dtype == np.float64
    np.testing.assert_array_equal(many[:2], few)
    assert len(np.unique(many, axis=0)) == 5


def test_auto_takes_turns(X):
    """Start k is what the kind whose turn it is draws from generator k."""
    _, theta = draw(X, init="auto", n_init=6)
    for k, kind in enumerate(["nguyen_widrow", "normal", "data", "glorot", "nguyen_widrow", "normal"]):
        np.testing.assert_array_equal(theta[k], draw(X, init=kind, n_init=6)[1][k])


@pytest.mark.parametrize("init", ["he", "", None])
def test_unknown_kinds_are_refused(init, X):
    with pytest.raises(ValueError, match=r"init must be 'auto' or one of .*glorot"):
        draw(X, init=init)


@pytest.mark.parametrize("init", KINDS)
@pytest.mark.parametrize("degenerate", ["constant column", "all constant", "duplicate rows", "one row"])
def test_degenerate_data_give_finite_starts(init, degenerate, X):
    if degenerate == "constant column":
        X[:, 1] = 7.0
    elif degenerate == "all constant":
        X[:] = X[0]
    elif degenerate == "duplicate rows":
        X[:28] = X[0]
    else:
        X = X[:1]
    _, theta = draw(X, init=init, n_init=20)
    assert np.isfinite(theta).all()
    assert np.abs(theta).max() < 1e4


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_nguyen_widrow_lengths(activation, X):
    """0.7 H^(1/F) times the active range, for inputs mapped to [-1, 1]; biases within that length."""
    network, (theta,) = draw(X, init="nguyen_widrow", activation=activation)
    low, high = X.min(axis=0), X.max(axis=0)
    for index, layer in enumerate(network.layers[:-1]):
        weight, bias = theta[layer.weight].reshape(layer.fan_out, layer.fan_in), theta[layer.bias]
        if index == 0:  # seen from the inputs' own range, as z = w x + b = (w half) u + (b + w middle)
            bias = bias + weight @ (high + low) / 2
            weight = weight * (high - low) / 2
        length = 0.7 * ACTIVATIONS[activation].active_range * layer.fan_out ** (1 / layer.fan_in)
        np.testing.assert_allclose(np.linalg.norm(weight, axis=1), length, rtol=1e-12)
        assert (np.abs(bias) <= length * (1 + 1e-12)).all()


def test_nguyen_widrow_leaves_no_part_of_a_curve_without_a_unit(X):
    """With one input, each of H equal parts of the range has one unit's centre."""
    low, high = X[:, 1].min(), X[:, 1].max()
    network, theta = draw(X[:, 1:2], init="nguyen_widrow", n_init=50, hidden=(20,))
    first = network.layers[0]
    place = (-theta[:, first.bias] / theta[:, first.weight] - low) / (high - low)
    np.testing.assert_array_equal(np.sort(np.floor(20 * place)), np.tile(np.arange(20), (50, 1)))
    assert 0.45 < (20 * place % 1).mean() < 0.55


def test_nguyen_widrow_does_not_depend_on_units(X):
    """The units see the same thing when the inputs are measured otherwise."""
    network, (theta,) = draw(X, init="nguyen_widrow")
    _, (other,) = draw(1000 * X + 5, init="nguyen_widrow")
    first = network.layers[0]
    z = X @ theta[first.weight].reshape(6, 3).T + theta[first.bias]
    np.testing.assert_allclose((1000 * X + 5) @ other[first.weight].reshape(6, 3).T + other[first.bias], z, atol=1e-9)


@pytest.mark.parametrize(
    ("init", "bound"),
    [
        ("glorot", lambda layer: np.sqrt(6 / (layer.fan_in + layer.fan_out))),
        ("uniform", lambda layer: layer.fan_in**-0.5),
    ],
)
def test_uniform_kinds_fill_their_interval(init, bound, X):
    network, theta = draw(X, init=init, n_init=300)
    for layer in network.layers:
        for part in (layer.weight, layer.bias):
            values = np.abs(theta[:, part])
            assert 0.98 * bound(layer) < values.max() <= bound(layer)
            assert abs(values.mean() / bound(layer) - 0.5) < 0.05


def test_normal_has_unit_preactivations_for_standardised_inputs(X):
    network, theta = draw(X, init="normal", n_init=500)
    for index, layer in enumerate(network.layers):
        assert abs(theta[:, layer.weight].std() * np.sqrt(layer.fan_in) - 1) < 0.05
        assert abs(theta[:, layer.bias].std() - (index < 2)) < 0.05


def test_data_puts_transitions_between_samples():
    """Half-way between two rows a unit is at zero, and at its active range on either side."""
    X = np.array([[0.0, 1.0], [4.0, 3.0]])
    network, theta = draw(X, init="data", n_init=5, hidden=(20,), activation="logistic")
    first = network.layers[0]
    weight = theta[:, first.weight].reshape(-1, 2)
    left, right = X @ weight.T + theta[:, first.bias].ravel()
    same = np.isclose(left, 0) | np.isclose(right, 0)  # one row drawn twice: the transition goes through it
    assert 0 < same.sum() < 80
    np.testing.assert_allclose(np.abs(left[~same]), 2.0, rtol=1e-9)
    np.testing.assert_allclose(right[~same], -left[~same], rtol=1e-9)


def test_data_slopes_are_bounded_for_close_pairs():
    """Pairs nearer than a tenth of the median distance count as that far apart."""
    X = np.concatenate([np.linspace(0, 10, 40), np.linspace(0, 10, 40) + 1e-9])[:, None]
    network, theta = draw(X, init="data", n_init=20, hidden=(30,))
    first = network.layers[0]
    assert np.abs(theta[:, first.weight]).max() < 2 / (0.1 * 1)
