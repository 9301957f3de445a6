"""
Check the reading of answers on released replies of language models, and measure its speed.

The replies are those of GSM8K (`model_solutions.jsonl`, four models, with `is_correct`), the chains of Codex for
BIG-Bench Hard, and BIG-Bench Mistake; their authors have read the answers with rules for just these formats. Printed
are how often the verdict of `extract_answer` and `answers_match` is another one, and what is unread.

Each reply is also cut at the ends of up to six sentences before its conclusion. There it states no answer yet, and
what is read all the same is a misreading.

    python benchmarks/answers.py --data ../shared/data
    python benchmarks/answers.py --data ../shared/data --sample 200 --seed 0    # to judge by hand
"""

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edit_trl.answers import answers_match, extract_answer


# The end of a reply of each source, which states the answer.
CONCLUSION = re.compile(r"\n?(?:A: .*|\s*(?:So|Therefore),? the (?:final )?answer is\b.*|#### .*)\Z", re.DOTALL | re.I)

SENTENCE_END = re.compile(r"[.!?](?=\s)|(?=\n)")


class Reply(NamedTuple):
    """A reply with its right answer, and whether its authors count it as right."""

    source: str
    text: str
    reference: str
    is_right: bool


def read_replies(data: Path) -> Iterator[Reply]:
    """Yield the replies of all sources that are in the folder `data`."""
    solutions = data / "gsm8k" / "model_solutions.jsonl"
    for line in solutions.read_text().splitlines() if solutions.exists() else []:
        row = json.loads(line)
        reference = row["ground_truth"].rpartition("A: ")[2].strip()
        for model, reply in row.items():
            if isinstance(reply, dict):
                yield Reply(f"gsm8k {model}", reply["solution"], reference, reply["is_correct"])
    for path in sorted((data / "bbh" / "codex").glob("*.json")):
        for row in json.loads(path.read_text())["outputs"]:
            said = row["prediction"].rpartition("the answer is")[2].strip().rstrip(".")
            yield Reply(f"bbh {path.stem}", row["prediction"], row["target"], said == row["target"])
    for path in sorted((data / "big_bench_mistake").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            # Answers of word sorting may have commas, options may have spaces before them.
            is_right = row["answer"].replace(",", " ").split() == row["target"].split()
            yield Reply(f"mistake {path.stem}", "\n".join(row["steps"]), row["target"], is_right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k, bbh and big_bench_mistake")
    parser.add_argument("--sample", type=int, default=0, help="print so many replies with their readings")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    args = parser.parse_args()
    replies = list(read_replies(args.data))
    start = time.process_time()
    readings = [extract_answer(reply.text) for reply in replies]
    verdicts = [answers_match(answer, reply.reference) for answer, reply in zip(readings, replies, strict=True)]
    seconds = time.process_time() - start

    rng = random.Random(args.seed)
    for i in rng.sample(range(len(replies)), args.sample):
        reply = replies[i]
        print(f"--- {i} {reply.source}: reading {readings[i]!r}, reference {reply.reference!r}, {verdicts[i]}")
        print("   ", reply.text[-240:].replace("\n", "\n    "))
    counts: dict[str, Counter[str]] = {}
    for reply, answer, is_right in zip(replies, readings, verdicts, strict=True):
        count = counts.setdefault(reply.source.split()[0], Counter())
        count["replies"] += 1
        count["unread"] += answer is None
        count["false matches"] += is_right and not reply.is_right
        count["misses"] += reply.is_right and not is_right
        body = CONCLUSION.sub("", reply.text)
        ends = [end.end() for end in SENTENCE_END.finditer(body)]
        cut = [body[:end] for end in rng.sample(ends, min(len(ends), 6))]
        count["cut"] += len(cut)
        count["read all the same"] += sum(extract_answer(text) is not None for text in cut)
    for source, count in counts.items():
        print(source, dict(count))
    num_characters = sum(len(reply.text) for reply in replies) / len(replies)
    print(f"{len(replies) / seconds:,.0f} replies of {num_characters:.0f} characters a second of processor time")


if __name__ == "__main__":
    main()
