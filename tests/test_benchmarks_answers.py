"""Tests of the benchmark of reading: its counts on a few replies whose verdicts are known."""

import json
import sys

import answers as benchmark


def test_counts_false_matches_misses_and_what_is_read_of_cut_replies(tmp_path, monkeypatch, capsys):
    replies = [
        ("2 + 3 = 5.\nA: 5", True),
        ("2 + 3 = 6.\nA: 6", False),
        ("2 + 3 = 5.\nA: 5", False),  # counted wrongly by its authors: a false match
        ("I do not know.", True),  # a miss
        ("The answer is 4.\nBut I check.\nA: 5", False),  # read where it is cut: after each of two sentences
    ]
    row = {"question": "2 + 3?", "ground_truth": "2 + 3 = 5\nA: 5"}
    row |= {f"model {i}": {"solution": text, "is_correct": right} for i, (text, right) in enumerate(replies)}
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "model_solutions.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr(sys, "argv", ["answers.py", "--data", str(tmp_path), "--sample", "2"])

    benchmark.main()

    printed = capsys.readouterr().out
    assert printed.count("reference '5'") == 2
    (counts,) = (line for line in printed.splitlines() if line.startswith("gsm8k "))
    assert eval(counts.removeprefix("gsm8k ")) == {
        "replies": 5,
        "unread": 1,
        "false matches": 1,
        "misses": 1,
        "cut": 2,
        "read all the same": 2,
    }
