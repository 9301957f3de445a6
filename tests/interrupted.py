"""
Script that tests start: another script, whose training waits for SIGTERM before a step.

    python interrupted.py FOLDER STEP RANKS SCRIPT [ARGUMENTS]

The processes RANKS (such as `0,1`) of the run whose `output_dir` ends with FOLDER make a file `waits-RANK` in the
working folder, and wait until they are told to end.
"""

import runpy
import sys
import time
from pathlib import Path

from edit_trl import InterruptCallback


def main() -> None:
    folder, step, ranks, script = sys.argv[1:5]
    sys.argv = sys.argv[4:]

    def wait(callback, args, state, control, **kwargs) -> None:
        is_here = args.output_dir.endswith(folder) and state.global_step == int(step)
        if is_here and str(args.process_index) in ranks.split(","):
            Path(f"waits-{args.process_index}").touch()
            while not callback._is_told:
                time.sleep(0.01)

    InterruptCallback.on_step_begin = wait
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
