"""
Tests of `examples/slurm/train.sbatch`: bash runs it, with stand-ins for the commands of SLURM and for `accelerate`.
"""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands import launch


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"

# Each writes what it is called with, a line of JSON, to a file with its name.
COMMANDS = {
    "scontrol": """
if sys.argv[1] == "show":
    print("node7\\nnode8")
""",
    # A task for each node. As SLURM does, it ends with the code of a task that fails.
    "srun": """
assert sys.argv[1].startswith("--")
tasks = [subprocess.Popen(sys.argv[2:], env={**os.environ, "SLURM_NODEID": str(node)}) for node in range(2)]
sys.exit(max(task.wait() for task in tasks))
""",
    "scancel": """
for pid in Path("pids").read_text().split():
    os.kill(int(pid), signal.SIGTERM)
""",
    # Ends at once with the code `ENDS_WITH`, or with 1 when it gets SIGTERM, as launchers do.
    "accelerate": """
if os.environ["ENDS_WITH"]:
    sys.exit(int(os.environ["ENDS_WITH"]))
signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))
with open("pids", "a") as file:
    file.write(f"{os.getpid()} ")
while True:
    time.sleep(0.01)
""",
}


@pytest.fixture
def start(tmp_path):
    """Start the script as SLURM does, with the code with which `accelerate` ends."""
    for name, code in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"#!{sys.executable}\nimport json, os, signal, subprocess, sys, time\nfrom pathlib import Path\n"
            f"with open({name!r}, 'a') as file:\n    file.write(json.dumps(sys.argv[1:]) + '\\n')\n{code}"
        )
        path.chmod(0o755)

    def start(ends_with: str) -> subprocess.Popen:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_GPUS_ON_NODE": "8",
            "ENDS_WITH": ends_with,
        }
        command = ["bash", str(SCRIPT), "--output_dir", "with a space", "--lora_target_modules", "q_proj", "v_proj"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment)

    return start


def calls(folder: Path, name: str) -> list[list[str]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_options_of_slurm_are_before_the_first_command():
    """After it SLURM ignores them."""
    lines = SCRIPT.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", "\n".join(lines[:first]), re.MULTILINE))
    assert len(options) == SCRIPT.read_text().count("\n#SBATCH")
    assert options["ntasks-per-node"] == "1"
    assert "requeue" in options
    seconds = int(options["signal"].removeprefix("B:TERM@"))
    # The launcher gives its processes less time than SLURM gives the job.
    assert int(re.search(r"SHUTDOWN_TIMEOUT=(\d+)", SCRIPT.read_text())[1]) < seconds


def test_each_node_launches_its_processes(start, tmp_path, monkeypatch):
    assert start("0").wait(timeout=60) == 0
    assert calls(tmp_path, "scontrol") == [["show", "hostnames", "node[7-8]"]]
    found = []
    for command in calls(tmp_path, "accelerate"):
        assert command[0] == "launch"
        monkeypatch.chdir(ROOT)  # where the script is started
        monkeypatch.setattr(launch, "multi_gpu_launcher", found.append)
        launch.launch_command(launch.launch_command_parser().parse_args(command[1:]))
    assert sorted(args.machine_rank for args in found) == [0, 1]
    for args in found:
        assert (args.num_machines, args.num_processes) == (2, 16)
        assert (args.main_process_ip, args.main_process_port) == ("node7", 23456)
        assert args.use_fsdp
        assert launch.prepare_multi_gpu_env(args)["FSDP_VERSION"] == "2"
        assert args.nproc_per_node == "8"
        assert (args.node_rank, args.nnodes) == (args.machine_rank, "2")
        assert args.training_script == "examples/train.py"
    recipe = runpy.run_path(str(ROOT / "edit_trl" / "scripts" / "train.py"))  # what this script runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [found[0].training_script, *found[0].training_script_args])
    _, training_args, model_args = recipe["parse_arguments"]()
    assert training_args.output_dir == "with a space"
    assert training_args.resume_from_checkpoint == "true"
    assert model_args.lora_target_modules == ["q_proj", "v_proj"]


def test_a_run_that_fails_is_not_queued_again(start, tmp_path):
    assert start("3").wait(timeout=60) == 3
    assert calls(tmp_path, "scontrol") == [["show", "hostnames", "node[7-8]"]]
    assert not calls(tmp_path, "scancel")


def test_sigterm_reaches_the_run_and_the_job_is_queued_again(start, tmp_path):
    process = start("")
    pids = tmp_path / "pids"
    while process.poll() is None and (not pids.exists() or len(pids.read_text().split()) < 2):
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=60) == 1
    assert calls(tmp_path, "scancel") == [["--signal=TERM", "123456.0"]]
    assert calls(tmp_path, "scontrol")[1:] == [["requeue", "123456"]]
