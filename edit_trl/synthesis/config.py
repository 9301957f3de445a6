"""
`SynthesisConfig`: the options of the synthesis of dual chains-of-thought.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ..option_help import help_from_docstring


# Called with the name of a step, counts by outcome, the number of chains done and the number of chains.
Progress = Callable[[str, "Counter[str]", int, int], None]


@help_from_docstring
@dataclass
class SynthesisConfig:
    """
    Options of [`synthesize`] and of the command `edit-trl synthesize`.

    Args:
        output_dir (`str`, *optional*, defaults to `"dual_cots"`):
            Folder for the dataset, its card, and the records of rejected chains.
        num_samples (`int`, *optional*, defaults to `1`):
            Number of chains to sample for each question. Each chain becomes a pair of its own.
        num_examples (`int`, *optional*, defaults to `3`):
            Number of worked examples in a prompt. The default is the number in the paper.
        max_attempts (`int`, *optional*, defaults to `3`):
            Maximum number of replies to ask for, at each step, until one passes the checks. If the temperature is
            zero, only one.
        min_similarity (`float`, *optional*, defaults to `0.5`):
            Minimum share of the longer chain of a pair, in words, that needs no edit. Chains below it are two
            different explanations and not dual chains.
        max_similarity (`float`, *optional*, defaults to `0.98`):
            Maximum share of the longer chain of a pair, in words, that needs no edit.
        max_length (`int`, *optional*, defaults to `1024`):
            Maximum number of tokens of prompt and chain, or of words without `tokenizer`. The default is the paper's
            training length.
        tokenizer (`str`, *optional*):
            Name or folder of the student's tokenizer, which counts key tokens and lengths. Without it, words are
            counted.
        examples (`str`, *optional*):
            JSON Lines file of worked examples with `question`, `answer`, `chosen` and, for the contrastive prompt,
            `rejected`. Examples with the same `task` as the question come first. By default they are made by
            `edit_trl.tasks`.
        examples_seed (`int`, *optional*, defaults to `0`):
            Seed for drawing the examples of the contrastive prompt.
        task_description (`str`, *optional*, defaults to `""`):
            Text at the start of every prompt, also of the student's, for questions without a `task_description` of
            their own.
        template_dir (`str`, *optional*):
            Folder with your own prompts, any of `cot.txt`, `answer_hint.txt`, `contrastive_cot.txt`, `mistake.txt` and
            `mend.txt`.
        classify_mistakes (`bool`, *optional*, defaults to `False`):
            Whether to ask the teacher also for the kind of each pair's mistake, see [`classify_mistakes`].
        file_format (`str`, *optional*, defaults to `"parquet"`):
            `"parquet"` or `"jsonl"`. JSON Lines can be read in any editor, but `load_dataset` guesses the types of
            their columns. For example, if all answers are dates such as 2030-01-02, it does not read them as text.
        push_to_hub (`bool`, *optional*, defaults to `False`):
            Whether to push the folder to the Hub as a dataset.
        hub_dataset_id (`str`, *optional*):
            Name of the dataset on the Hub. Defaults to the name of `output_dir`.
        hub_private_repo (`bool`, *optional*, defaults to `False`):
            Whether the dataset on the Hub is private.

    Raises:
        ValueError: If an option has a value that cannot work.
    """

    output_dir: str = "dual_cots"
    num_samples: int = 1
    num_examples: int = 3
    max_attempts: int = 3
    min_similarity: float = 0.5
    max_similarity: float = 0.98
    max_length: int = 1024
    tokenizer: str | None = None
    examples: str | None = None
    examples_seed: int = 0
    task_description: str = ""
    template_dir: str | None = None
    classify_mistakes: bool = False
    file_format: str = "parquet"
    push_to_hub: bool = False
    hub_dataset_id: str | None = None
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("num_examples", 0), ("max_attempts", 1), ("max_length", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"`{name}` must be at least {least}, got {getattr(self, name)}. Leave it out for the default."
                )
        if not 0 <= self.min_similarity < self.max_similarity <= 1:
            raise ValueError(
                "`min_similarity` and `max_similarity` must lie between 0 and 1, in this order, got "
                f"{self.min_similarity} and {self.max_similarity}. They are shares of the longer chain; pass 0 and 1 "
                "to keep pairs of any similarity."
            )
        if self.file_format not in ("parquet", "jsonl"):
            raise ValueError(
                f"`file_format` must be 'parquet' or 'jsonl', got {self.file_format!r}. Pass one of them."
            )
