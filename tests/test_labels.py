"""Labels as targets; what a fit makes of them is tested in test_classifier."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_class_weight

from sklm import LMClassifier
from sklm._labels import (
    class_factors,
    codes_of,
    counts_of_shares,
    encode,
    indicators,
    is_indicator_matrix,
    refuse_labels,
    targets_of,
)

LABELS = {
    "two numbers": np.array([7, -1, 7, 7]),
    "three numbers": np.array([2.0, 0.0, 1.0, 1.0]),
    "names": np.array(["pear", "fig", "apple", "fig"]),
}


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_targets_are_those_of_label_binarizer_and_lead_back(y):
    classes, codes = encode(y, None)
    binarizer = LabelBinarizer().fit(y)
    targets = targets_of(codes, len(classes))
    assert_array_equal(classes, binarizer.classes_)
    assert_array_equal(targets, binarizer.transform(y))
    assert targets.dtype == np.float64
    assert_array_equal(classes[codes_of(targets)], y)


def test_classes_that_are_not_in_the_batch_keep_their_place():
    classes, codes = encode(np.array([5, 1]), np.array([1, 3, 5]))
    assert_array_equal(classes, [1, 3, 5])
    assert_array_equal(targets_of(codes, 3), [[0, 0, 1], [1, 0, 0]])
    with pytest.raises(ValueError, match=r"labels \[2\], which are not among the classes"):
        encode(np.array([5, 2]), classes)


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_indicator_matrix(kind):
    y = np.array([[0, 1, 1], [1, 0, 0]])
    assert is_indicator_matrix(kind(y))
    assert_array_equal(indicators(kind(y)), y)
    assert not is_indicator_matrix(y[:, 0])
    with pytest.raises(ValueError, match=r"Unknown label type: continuous\. .* use LMRegressor"):
        is_indicator_matrix(np.array([0.5, 1.5]))


@pytest.mark.parametrize("class_weight", [{7: 3.0}, {-1: 0.5, 7: 0.0}, "balanced"], ids=str)
def test_factors_of_classes(class_weight):
    y = LABELS["two numbers"]
    classes, codes = encode(y, None)
    expected = compute_class_weight(class_weight, classes=classes, y=y)
    np.testing.assert_allclose(class_factors(class_weight, classes, codes, np.ones(4)), expected, rtol=1e-15)


def test_balanced_counts_weights_and_leaves_out_absent_classes():
    factors = class_factors("balanced", np.arange(3), np.array([0, 0, 2]), np.array([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(factors, [4 / 2 / 3, 0, 4 / 2], rtol=1e-15)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [({9: 2.0}, r"names \[9\], which are not among"), ({7: -1.0}, "non-negative"), ({7: np.nan}, "finite")],
)
def test_unusable_class_weights_are_refused(class_weight, message):
    classes, codes = encode(LABELS["two numbers"], None)
    with pytest.raises(ValueError, match=message):
        class_factors(class_weight, classes, codes, np.ones(4))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.5, 0.25, 0.25], [1.5, 0.75, 0.75]),
        ([0.02, 0.0, 0.06], [0.5, 0.0, 1.5]),  # rows without weight are none
        ([0.5, 0.75, 0.75], [0.5, 0.75, 0.75]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([1e-310, 0.0, 1e-310], [1.0, 0.0, 1.0]),
        ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([2.0, 1.0, 3.0], [2.0, 1.0, 3.0]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_weights_that_sum_to_less_than_two_rows_are_shares(weights, expected):
    np.testing.assert_allclose(counts_of_shares(np.array(weights)), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.array(["a", None], dtype=object), ValueError, "y holds None"),
        ([1, None, 2], ValueError, "y holds None"),
        (np.array(["a", 1, 2.5], dtype=object), TypeError, r"put in order: float, int, str\."),
        (np.ma.masked_array([1, 2, 1], mask=[0, 1, 0]), ValueError, "y has masked entries"),
        ([(0, 1), (2,), (0, 1)], ValueError, r"MultiLabelBinarizer\(\)\.fit_transform"),
        ([(0, 1), 2, (0, 1)], ValueError, "lists of labels of different lengths"),
    ],
    ids=lambda value: None if isinstance(value, type | str) else type(value).__name__,
)
def test_labels_that_are_missing_or_do_not_compare(y, error, message):
    with pytest.raises(error, match=message):
        refuse_labels(y)
    with pytest.raises(error, match=message):
        LMClassifier().fit(np.zeros((len(y), 1)), y)


@pytest.mark.parametrize("y", [[1, 2.5, True], ["a", "b"], [[1, 2], [1, 0]], csr_array(np.eye(2)), np.eye(2), None])
def test_other_labels_are_left_to_what_follows(y):
    refuse_labels(y)
    refuse_labels(np.ma.masked_array([1, 2], mask=[0, 0]))
