"""Tests of `benchmarks/gpu.sh`, which needs a GPU: its commands are ones that the benchmarks take."""

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_step


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def run(path: Path, out: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), str(out)],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def commands(tmp_path) -> Path:
    """Stand-ins for the interpreter and `nvidia-smi` on a machine with a GPU; each call is written to `calls`."""
    python = f"""\
echo "$@" >> {tmp_path}/calls
case "$*" in
    *find_spec*) echo flash_attention_2 ;;
    -) cat >/dev/null ;;
    *) echo "ran $1" ;;
esac"""
    for name, body in {"python": python, "nvidia-smi": "echo name; echo SomeGPU"}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return tmp_path / "bin"


def test_every_command_is_taken_by_its_benchmark(tmp_path, commands):
    done = run(commands, tmp_path / "out", PYTHON="python")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    benchmarks = [shlex.split(call) for call in calls if call.startswith("benchmarks/")]
    assert len(benchmarks) == 6
    for script, *arguments in benchmarks:
        assert (ROOT / script).exists()
        if script.endswith("step_profile.py"):
            assert arguments.count("--steps") == 1
            place = arguments.index("--steps")
            arguments = arguments[:place] + arguments[place + 2 :]
        training_step.parse_args(arguments)
    assert "-m pytest -m gpu -v" in calls
    assert "SomeGPU" in (tmp_path / "out" / "machine.txt").read_text()
    assert (tmp_path / "out" / "tests.txt").read_text() == "ran -m\n"
    # A second run measures nothing again.
    (tmp_path / "calls").unlink()
    assert run(commands, tmp_path / "out", PYTHON="python").returncode == 0
    assert "benchmarks/" not in (tmp_path / "calls").read_text()


def test_an_interrupted_command_is_repeated(tmp_path, commands):
    python = commands / "python"
    python.write_text(python.read_text().replace('echo "ran $1"', 'echo "half"; exit 3'))
    assert run(commands, tmp_path / "out", PYTHON="python").returncode == 3
    assert not (tmp_path / "out" / "tests.txt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu(tmp_path):
    done = run(tmp_path, tmp_path / "out", PYTHON=sys.executable)
    assert done.returncode == 1
    assert re.search(r"`make gpu` needs a CUDA GPU, and torch [\d.+a-z]+ sees none", done.stderr)
    assert not (tmp_path / "out").exists()
