"""Tests of `edit-trl --print_completion`: bash loads the script and completes what is typed."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest
from test_package import loaded_by

from edit_trl.cli import main
from edit_trl.cli.completion import SHELLS


# Instead of the command, a function of this name shows its arguments.
RC = "PS1='ready> '\nedit-trl() { printf '<%s>' \"$@\"; printf '\\nended\\n'; }\nsource completion.bash\n"


class Bash:
    """An interactive bash in a terminal, with the script loaded."""

    def __init__(self, folder) -> None:
        (folder / "rc").write_text(RC)
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--rcfile", "rc", "-i"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "INPUTRC": "/dev/null"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.read_until("ready> ")

    def read_until(self, mark: str) -> str:
        text = ""
        end = time.monotonic() + 20
        while mark not in text:
            assert time.monotonic() < end, text
            if select.select([self.ours], [], [], 1)[0]:
                text += os.read(self.ours, 4096).decode()
        return text

    def arguments(self, typed: str) -> str:
        """The arguments of the command line that comes of what is typed, `\\t` being the Tab key."""
        os.write(self.ours, f"{typed}\n".encode())
        return self.read_until("\nended\r\nready> ").splitlines()[-3]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    folder = tmp_path_factory.mktemp("completion")
    script = subprocess.run(
        [sys.executable, "-m", "edit_trl", "--print-completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    (folder / "completion.bash").write_text(script)
    (folder / "unusual_name.jsonl").write_text("")
    bash = Bash(folder)
    yield bash
    bash.close()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("edit-trl ev\t", "<evaluate>"),
        ("edit-trl evaluate student --num-p\t 8", "<evaluate><student><--num-paths><8>"),
        ("edit-trl evaluate student --dataset unus\t", "<evaluate><student><--dataset><unusual_name.jsonl>"),
        ("edit-trl inspect unus\t --ht\t r.html", "<inspect><unusual_name.jsonl><--html><r.html>"),
        ("edit-trl inspect unus\t --model unus\t", "<inspect><unusual_name.jsonl><--model><unusual_name.jsonl>"),
        ("edit-trl inspect unus\t --sort unus\t", "<inspect><unusual_name.jsonl><--sort><unus>"),  # not a file
        ("edit-trl synthesize --dry-run t\t --temper\t 0", "<synthesize><--dry-run><true><--temperature><0>"),
        ("edit-trl synthesize --dry-run --temper\t 0", "<synthesize><--dry-run><--temperature><0>"),
        ("edit-trl train --contr\t --chosen-k\t 2", "<train><--control><--chosen-key-weight><2>"),
        ("edit-trl train --dataset-n\t unus\t", "<train><--dataset-name><unusual_name.jsonl>"),
        ("edit-trl --print\t zs\t", "<--print-completion><zsh>"),
        ("edit-trl inspect --demo\t", "<inspect><--demo>"),  # a flag of another command
    ],
)
def test_bash_completes(bash, typed, expected):
    assert bash.arguments(typed) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--print_completion", shell])

    assert end.value.code == 0
    script = capsys.readouterr().out
    assert all(name in script for name in ("evaluate", "num-paths", "dry-run", "demo-level"))


def test_nothing_heavy_is_loaded():
    code = (
        "from edit_trl.cli import main\ntry:\n    main(['--print_completion', 'bash'])\nexcept SystemExit:\n    pass"
    )
    assert loaded_by(code) == set()


def test_without_the_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)

    assert main(["--print_completion", "bash"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("edit-trl: `--print_completion` needs the package `shtab`. Install it with `pip install ")
    assert error.endswith("[completion]'`.\n")
