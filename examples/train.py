"""
Train a student with the two stages of EDIT. The script is `edit_trl/scripts/train.py`, which says how to use it:
`python examples/train.py`, `accelerate launch examples/train.py` and `edit-trl train` run the same.
"""

from edit_trl.scripts.train import run


if __name__ == "__main__":
    run()
