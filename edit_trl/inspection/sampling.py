"""Draw the pairs that a report shows of a large dataset, in one pass over a stream of unknown length."""

import heapq
import random
from collections.abc import Callable, Iterable


# Maximum number of examples of each label.
NUM_EXAMPLES = 20


class Sample:
    """
    A random sample of rows, and examples of each label, such as a problem.

    Each row gets a random number. The sample is the rows with the smallest numbers, so each row is equally likely to
    be in it. The examples of a label are the rows with the smallest numbers among those with the label: of a frequent
    label they are in the sample anyway. Only the texts of the rows chosen so far are kept.

    Args:
        size (`int`):
            Number of rows of the sample.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random numbers. Equal rows and seeds give equal samples.

    Examples:

    ```python
    >>> sample = Sample(3)
    >>> for row in range(100):
    ...     sample.add(row, lambda: f"row {row}", labels=["rare"] if row == 7 else [])
    >>> list(sample.texts())
    [7, 35, 40, 52]

    ```
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.num_examples = min(NUM_EXAMPLES, size)
        self._random = random.Random(seed)
        # By label, and under `None` for the sample: a heap of (-number, row, text), with the row to replace first.
        self._heaps: dict[str | None, list[tuple[float, int, str]]] = {}

    def add(self, row: int, write: Callable[[], str], labels: Iterable[str] = ()) -> None:
        """
        Choose a row or leave it out.

        Args:
            row (`int`):
                Number of the row. Rows come in order.
            write (`Callable[[], str]`):
                Returns the text of the row. It is called only if the row is chosen.
            labels (`Iterable[str]`, *optional*):
                Labels of the row.
        """
        key, text = -self._random.random(), None
        for label, size in ((None, self.size), *((label, self.num_examples) for label in labels)):
            heap = self._heaps.setdefault(label, [])
            if size == 0 or (len(heap) == size and key < heap[0][0]):
                continue
            text = write() if text is None else text
            (heapq.heappush if len(heap) < size else heapq.heapreplace)(heap, (key, row, text))

    def texts(self) -> dict[int, str]:
        """
        Return what was chosen.

        Returns:
            `dict[int, str]`: By row, in order, the texts of the sample and of the examples.
        """
        return dict(sorted((row, text) for heap in self._heaps.values() for _, row, text in heap))
