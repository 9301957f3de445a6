"""
Script that `test_recipe.py` starts: `examples/train.py`, killed while the student of stage 1 is saved.
"""

import runpy
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

from torn_run import tear  # noqa: E402


tear("training_args.bin", "sft")
runpy.run_path(str(Path(__file__).parents[1] / "examples" / "train.py"), run_name="__main__")
