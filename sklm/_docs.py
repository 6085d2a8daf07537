"""The text on parameters that the estimators share."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", bound=type)


def document(**texts: str) -> Callable[[T], T]:
    """Fill ``{parameters}`` in the docstring of an estimator, with ``texts`` where the estimators differ."""

    def fill(estimator: T) -> T:
        if estimator.__doc__:
            filled = PARAMETERS.strip()
            for name, text in texts.items():
                filled = filled.replace(f"<{name}>", text.strip("\n") if text.startswith("\n    ") else text.strip())
            estimator.__doc__ = estimator.__doc__.replace("{parameters}", textwrap.indent(filled, "    ").strip())
        return estimator

    return fill


def document_search(search: T) -> T:
    """Fill ``{parameters}`` and ``{attributes}`` in the docstring of a search."""
    if search.__doc__:
        texts = {"parameters": SEARCH_PARAMETERS, "attributes": SEARCH_ATTRIBUTES}
        filled = {name: textwrap.indent(text.strip(), "    ").strip() for name, text in texts.items()}
        search.__doc__ = search.__doc__.format(**filled)
    return search


SEARCH_PARAMETERS = """
scoring : str, callable, list, tuple, dict or None, default=None
n_jobs : int or None, default=None
    Worker processes that divide the fits, where there are some dozen for each, and threads that score; -1 means one a
    processor core. Where the parameters cannot be sent to a process, or there is a GPU, threads run the batches.
refit : bool, str or callable, default=True
cv : int, splitter, iterable or None, default=None
verbose : int, default=0
    1 shows a line with the number of fits that are done, higher numbers what scikit-learn prints.
pre_dispatch : int or str, default='2*n_jobs'
error_score : 'raise' or number, default=nan
    Also for a fit that fails in a batch, which does not disturb the others.
return_train_score : bool, default=False
"""

SEARCH_ATTRIBUTES = """
cv_results_ : dict
    As in scikit-learn, and ``batched``: whether the fits of the candidate were run in batches (of one, where no other
    fit is alike), not in the ordinary way, which large fits go as they gain nothing (see the user guide, "Many fits").
    Their ``fit_time`` is their preparation and an equal share of the batch's.
best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
    As in scikit-learn.
"""

PARAMETERS = """
hidden_layer_sizes : int, sequence of int or 'auto', default='auto'
    Units of each hidden layer; ``()`` is a linear model. 'auto' is one layer of 20 units, and for more than one column
    and N rows ``20 sqrt(N / 500)`` of them, rounded to tens, from 20 to 50: 30 from 782 rows on, 40 from 1532, 50 from
    2532; with fewer than four rows a parameter (two classes: nine for each of 20 units) no more than make the search for
    ``alpha`` quick, down to 4, or 2 where it is long even so, of many columns (user guide, "Many columns"). Whole
    sample weights count as rows. Classifiers of more than two classes, or of several labels, have 20 or, in
    mini-batches, up to 100; of up to four also fewer. Where ``alpha`` is open, ``LMRegressor`` fits a linear model and
    polynomials of low degree, too, and sines to curves with waves, and keeps one where rows left out do not speak for
    the usual hidden layer; where it finds little noise, also two equal layers, and keeps what is evidently better on
    these rows. The fitted ``architecture_`` says what it is; a warm start keeps it.
<activation>
architecture : Architecture, torch.nn.Module or None, default=None
    None builds an MLP from the two parameters above. ``sklm.CNN(...)`` is a convolutional network,
    ``sklm.Polynomial(degree)`` has products of columns. A module that maps (n, n_features) to (n,) or (n, n_outputs) is
    copied and trained from the values it carries; see the user guide, "Your own formula".
<loss>
<alpha>
relevance : 'auto', array-like of shape (n_features,) or None, default='auto'
    Factor of each column after standardisation: the penalty of its weights is divided by the square. 'auto' finds them
    with ``alpha``, where rows are left out for that and their loss falls by 4 % or more: from about 1
    for the column that matters most to 0.02 for one that does not (``relevance_``). None leaves all columns alike and
    takes less time. See the user guide, "Columns that do not matter".
optimizer : {'lm', 'lbfgs', 'lbfgs_armijo', 'adam', 'sgd'} or Optimizer, default='lm'
    Levenberg-Marquardt, or a rival on the same network, loss and starts, to compare with: L-BFGS with a strong-Wolfe or
    an Armijo line search, or Adam or SGD on mini-batches. An object of :mod:`sklm.optim` sets its parameters, such as
    ``Adam(learning_rate=0.01)``. The options from ``damping`` to ``growing``, but for ``batch_size``, and
    ``curvature`` are for 'lm' only; setting one with a rival is an error.
damping : float, default=0.01
    First damping (lambda). It adapts from then on.
damping_strategy : {'gain_ratio', 'multiplicative', 'delayed_gratification', 'trust_region'} or object, default='gain_ratio'
    How the damping follows from the success of a step; objects are of :class:`sklm.optim.DampingStrategy`.
damping_scaling : {'auto', 'identity', 'marquardt', 'more', 'running_maximum'} or callable, default='auto'
    The diagonal that the damping multiplies: ones, diag(J^T J), its largest values so far, or these but at least 0.01.
    'auto' is 'identity' for MLPs and 'more' for modules.
acceleration : {'auto', 'geodesic', 'momentum'}, Acceleration, sequence of these or None, default='auto'
    Corrections of every step, one after the other: of second order along its path, or towards the last step. 'auto' is
    'geodesic' but where mini-batches are averaged and for solver 'cg'.
line_search : {'rate', 'armijo'}, LineSearch or None, default=None
    How far to go along a step that was rejected: the best of a few shares, or back-tracking.
acceptance : {'bold'}, Acceptance or None, default=None
    Take steps that raise the objective while their direction is that of the last one. The best model is kept.
n_dampings : int, default=1
    Dampings tried at once, a factor of ten apart around the present one (two: it and ten times it); the best step is taken.
param_selection : {'random', 'layers'}, bool array-like (n_parameters,), ParameterSelection or None, default=None
    Move only some parameters in a step: half of them drawn anew, one layer after the other, or always those where the
    array is True, in the order of ``theta_``. The others stay exactly as they are.
solver : {'auto', 'cholesky', 'qr', 'eigh', 'dual', 'cg'}, default='auto'
    How the damped system is solved: 'cholesky' and 'eigh' on the P x P normal equations, 'qr' without forming them, for
    ill-conditioned problems, 'dual' in the space of the rows, 'cg' by conjugate gradients, without a matrix. 'auto' is
    'qr' for modules, and for polynomials fitted by least squares to all rows; otherwise 'dual' when there are fewer
    rows times outputs than parameters, else 'cholesky'; and 'cg' where that does not fit into memory.
<batch>
    Rows over which mini-batches average the curvature; iterates are averaged over twice as many, and a step goes the
    share of the way that its batch has in the memory. Where curvature is drawn, a step uses half of its batch, the rows
    that matter most more often. None lets every batch stand alone, as does a memory below the size of a batch. 'auto'
    is eight rows a parameter, at most all, for batches of fewer than three; where P x P matrices are slow, three batches
    of fewer rows than parameters, and only the iterates are averaged (none below two rows a parameter). A number with
    ``batch_size=None`` is an error. In ``partial_fit``, 'auto' is eight rows a parameter for batches of fewer; None makes
    every batch a step of its own.
jacobian_max_rows : int, 'auto' or None, default='auto'
    Rows of the Jacobian held at once; 'auto' fits the processor's cache, None holds all. It changes memory and speed,
    not the result.
growing : bool or 'auto', default='auto'
    Start on a few rows and grow to all of them, when there are at least 32 rows times outputs a parameter. 'auto' does
    so without mini-batches.
max_iter : int, default=1000
    Largest number of trial steps, or of epochs with mini-batches.
max_time : float or None, default=None
    Largest time in seconds. A step that has begun is finished; so is an iteration of the search for ``alpha``, which
    takes at most half of it: with little time, give ``alpha`` as a number.
target_loss : float or None, default=None
    Stop when the training loss, ``loss_``, is this low.
tol : float or 'auto', default='auto'
    Stop when the objective (or, with ``early_stopping``, the validation loss) fell by less than this, relative, over
    the number of iterations below. 'auto' is 1e-3 for MLPs in regression, 1e-2 for CNNs and in classification, and
    1e-12 for modules, whose parameters matter by themselves. With it, and where a linearisation takes W > 1e8
    multiplications, an MLP for squared errors also ends where ``(W / 3e13)^2``, at most 1e-5, of the variance is left;
    and with three rows (times outputs) a parameter or more, where less than 1e-14 is left and does not halve any more
    within the number of iterations below.
n_iter_no_change : int, inf or 'auto', default='auto'
    Number of accepted steps (or epochs) within which the objective, or the validation loss, has to fall by ``tol``;
    with ``numpy.inf`` that ends no fit.
    'auto' is 20 steps, 10 where rows are held out, and with mini-batches as many epochs as have 100 steps, from 5 to 20;
    20 in any case for another ``optimizer``.
<holdout>
validation_fraction : float, default=0.1
    Share of the rows that is held out.
standardize : bool or 'auto', default='auto'
    Scale X, and y where the loss allows it, inside to weighted mean 0 and standard deviation 1; images channel by
    channel. 'auto' does so for MLPs and CNNs and not for modules, whose parameters have units.
init : {'auto', 'nguyen_widrow', 'glorot', 'uniform', 'normal', 'data'}, default='auto'
    Kind of random start. 'auto' is 'nguyen_widrow' for the first start of an MLP, 'normal', 'data' and 'glorot' for the
    next ones in turn; 'uniform' for a CNN; and the carried values for modules. With ``activation='sin'``, one hidden
    layer, one column and the squared error the first start has the waves of the curve, if it has some.
n_init : int or 'auto', default='auto'
    Number of starts, fitted as one batch, of which the best is kept. Start k is the same for every ``n_init`` above k.
<starts>
warm_start : bool, default=False
    Let the first start of the next ``fit`` be the fitted model.
random_state : int, RandomState instance or None, default=None
    Seed of starts, mini-batches, growing and hold-out.
device : str, default='cpu'
    'cpu', 'cuda', 'cuda:1', 'mps', or 'auto' for a GPU where the work is large enough.
dtype : {'float64', 'float32'}, default='float64'
    Precision of the fit. float32 stalls near a relative error of 1e-7.
verbose : int, default=0
    1 shows a line of progress, 2 prints a line an iteration.
"""  # noqa: E501
