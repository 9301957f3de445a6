"""
Draw the statistics of a dataset as an SVG image. The HTML report draws the same numbers.
"""

from ..drawings import draw_distributions
from .dataset_statistics import Statistics
from .distributions import histograms, key_ratio_by_task
from .terminal import visible


def plot_statistics(statistics: Statistics) -> str:
    """
    Draw the distributions of key tokens, similarity and common starts, and the share of key tokens of each task.

    Args:
        statistics ([`Statistics`]):
            Statistics of the dataset. A notebook shows them as this image.

    Returns:
        `str`: The image, as SVG. It has a white background, for pages of any colour.

    Examples:

    ```python
    >>> from edit_trl.inspection import Statistics, read_pairs
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> statistics = Statistics(unit="words")
    >>> for pair in read_pairs([row]):
    ...     statistics.add(pair)
    >>> image = plot_statistics(statistics)
    >>> image[:4], "key words of a pair" in image
    ('<svg', True)

    ```
    """
    bars = [(visible(name).replace("\n", " "), mean) for name, mean in key_ratio_by_task(statistics)]
    return draw_distributions(histograms(statistics), bars, f"key {statistics.unit} by task")
