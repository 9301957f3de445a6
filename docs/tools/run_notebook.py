"""
Run a notebook with the demo's student and keep the outputs in it: `python docs/tools/run_notebook.py NOTEBOOK`.

The outputs are committed, so they have neither warnings of other packages, which name folders of the machine, nor the
time of each cell.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from edit_trl.scripts.train import demo_student


# tqdm asks for ipywidgets, and transformers deprecates what TRL reads.
_WARNINGS = "ignore:IProgress not found,ignore::FutureWarning:transformers.modeling_utils"


def run(path: Path) -> None:
    """Run the notebook at `path`, in its folder."""
    os.environ.update(EDIT_TRL_STUDENT=demo_student(), PYTHONWARNINGS=_WARNINGS)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=None, resources=resources, record_timing=False, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
