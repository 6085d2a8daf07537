"""What ``batch_size`` and ``batch_memory`` mean for a network and a number of rows."""

from __future__ import annotations

from numbers import Integral

from ._base import BaseLM
from ._penalty import linearisation
from .architectures import Network
from .optim import MiniBatches

#: averaged mini-batches keep the Gauss-Newton matrix where there are this many rows for each of the P parameters, or a
#: linearisation of all rows takes no more than so many multiplications, and P is at most ...
MATRIX_ROWS_PER_PARAMETER, DUAL_WORK, MATRIX_PARAMETERS = 20, 1e10, 4000
#: ... else they are solved in the space of their rows: at least so many mini-batches of at most so many curvature rows,
#: but of no fewer samples than this
LEAST_DUAL_BATCHES, DUAL_BATCH_ROWS, LEAST_BATCH = 4, 1000, 100
#: ``n_iter_no_change='auto'``: accepted steps, with all rows in every step, and most epochs; steps with rows held out;
#: with mini-batches as many epochs as have so many steps, and at least so many
PATIENCE, PATIENCE_HELD_OUT, PATIENT_STEPS, LEAST_EPOCHS = 20, 10, 100, 5
#: ``batch_memory='auto'``: so many rows for each parameter, where batches have fewer than so many for each and the
#: matrix is averaged; so many batches, where only the iterates are, but none below so many rows for each parameter:
#: with fewer all rows can be met at once, and steps do not undo each other
MEMORY_ROWS_PER_PARAMETER, ENOUGH_ROWS_PER_PARAMETER, MEMORY_BATCHES, CONFLICTING_ROWS_PER_PARAMETER = 8, 3, 3, 2


class MiniBatching(BaseLM):
    """Sizes of mini-batches, how their steps are solved and averaged, and when they make no progress."""

    def _patience(self, batches: MiniBatches | None, holds_out: bool) -> int:
        """Accepted steps, or epochs of mini-batches, that ``n_iter_no_change`` means."""
        if self.n_iter_no_change != "auto":
            return int(min(self.n_iter_no_change, 2**31))
        if not self._is_lm:
            return PATIENCE
        if batches is None:
            return PATIENCE_HELD_OUT if holds_out else PATIENCE
        return min(max(LEAST_EPOCHS, -(-PATIENT_STEPS // batches.n_batches)), PATIENCE)

    def _batch_rows(self, network: Network, n_samples: int) -> int:
        """Samples of a mini-batch; all where there are no mini-batches."""
        size, optimizer = self.batch_size, self._make_optimizer()
        if optimizer is not None:
            if isinstance(size, Integral) and optimizer.batch_size is None:
                raise ValueError(
                    f"batch_size={size} cannot be used with optimizer={self.optimizer!r}, whose steps need all rows; "
                    "leave the default."
                )
            size = size if isinstance(size, Integral) else optimizer.batch_size
        elif size is None and isinstance(self.batch_memory, Integral):
            raise ValueError(
                f"batch_memory={self.batch_memory} would be ignored with batch_size=None, where every step sees all "
                "rows. Set batch_size to a number of rows or 'auto', or leave batch_memory='auto'."
            )
        elif size == "auto":
            size = self._auto_batch_rows(network, n_samples)
        return n_samples if size is None else min(int(size), n_samples)

    #: parameters up to which mini-batches of fewer rows keep the Gauss-Newton matrix
    _most_averaged = MATRIX_PARAMETERS
    #: rows a parameter of the mini-batches that average the Gauss-Newton matrix with ``batch_size='auto'``
    _batch_share = 1.0
    #: whether those that are solved in the space of their rows may be smaller than parameters suggest, so that there
    #: are enough of them
    _smaller_batches = False

    def _most_work(self, network: Network, n_samples: int) -> float:
        """Multiplications of a linearisation of all rows above which 'auto' means mini-batches."""
        return DUAL_WORK

    def _columns(self, network: Network) -> int:
        """Curvature columns of a sample of a mini-batch."""
        return network.n_outputs

    def _auto_batch_rows(self, network: Network, n_samples: int) -> int | None:
        """Rows of the mini-batches that ``batch_size='auto'`` means; None where there are none."""
        n_parameters, columns = network.n_parameters, self._columns(network)
        if self.growing is True or self._solver_name() in ("qr", "cg") or self._has_rules_for_all_rows:
            return None
        if self._averages_matrix(network, n_samples, 0):
            many = n_samples >= MATRIX_ROWS_PER_PARAMETER * n_parameters
            long = n_samples * network.n_outputs * n_parameters**2 > self._most_work(network, n_samples)
            return max(int(self._batch_share * n_parameters), LEAST_BATCH) if many and long else None
        size = min(n_parameters // 2, DUAL_BATCH_ROWS) // columns
        if self._smaller_batches:
            size = min(size, -(-n_samples // LEAST_DUAL_BATCHES))
        size = max(size, LEAST_BATCH)
        long = linearisation(n_samples * columns, n_parameters) > self._most_work(network, n_samples)
        return size if long and -(-n_samples // size) >= LEAST_DUAL_BATCHES else None

    @property
    def _has_rules_for_all_rows(self) -> bool:
        """Whether rules of the step are set that averaged mini-batches refuse."""
        plain = self.acceleration is None or self.acceleration in ("auto", "geodesic")
        rules = (self.line_search, self.acceptance, self.param_selection)
        return not plain or self.n_dampings > 1 or any(rule is not None for rule in rules)

    def _averages_matrix(self, network: Network, n_samples: int, n_batch: int) -> bool:
        """Whether averaged mini-batches of so many samples keep the Gauss-Newton matrix, and not the iterates alone."""
        n_parameters, columns = network.n_parameters, self._columns(network)
        solver = self._solver_name()
        if solver != "auto" or n_batch * columns >= n_parameters:
            return solver != "dual"
        cheap = linearisation(n_samples * columns, n_parameters) <= self._most_work(network, n_samples)
        many = n_samples >= MATRIX_ROWS_PER_PARAMETER * n_parameters
        return n_parameters <= self._most_averaged and (cheap or many)

    def _rows_at_once(self, network: Network, n_samples: int) -> int:
        """Samples by which to choose the curvature: those of a step, or of the memory, or all if only steps average."""
        batches, rows = self._batches(network, n_samples, 0), self._batch_rows(network, n_samples)
        if batches is None or batches.memory is None:
            return rows
        averages = self._averages_matrix(network, n_samples, rows)
        return min(max(rows, batches.memory), n_samples) if averages else n_samples

    def _batches(self, network: Network, n_samples: int, seed: int) -> MiniBatches | None:
        rows = self._batch_rows(network, n_samples)
        if rows >= n_samples:
            return None
        memory = self.batch_memory if self._make_optimizer() is None else None
        if memory == "auto":
            n_parameters, memory = network.n_parameters, None
            few = rows < ENOUGH_ROWS_PER_PARAMETER * n_parameters
            if not self._averages_matrix(network, n_samples, rows):
                columns = self._columns(network)
                conflict = n_samples * columns >= CONFLICTING_ROWS_PER_PARAMETER * n_parameters
                if conflict and rows * columns < n_parameters:
                    memory = min(MEMORY_BATCHES * rows, n_samples)
            elif few and n_parameters <= MATRIX_PARAMETERS and self._solver_name() in ("auto", "cholesky", "eigh"):
                memory = min(MEMORY_ROWS_PER_PARAMETER * n_parameters, n_samples)
        return MiniBatches(n_samples, rows, seed, None if memory is None else int(memory))
