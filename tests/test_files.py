"""Files that appear whole or not at all."""

import os

import pytest

from edit_trl.files import check_outputs, written_aside


def test_all_appear_together(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    paths[0].write_text("old")
    with written_aside(*paths) as (a, b):
        a.write_text("new")
        b.write_text("other")
        assert paths[0].read_text() == "old" and not paths[1].exists()
        assert (a.name, b.name) == ("a.json", "b.json")
    assert [path.read_text() for path in paths] == ["new", "other"]
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), written_aside(path) as (unfinished,):
        unfinished.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_file_that_was_not_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "a.json"):
        pass
    assert os.listdir(tmp_path) == []


def test_link_is_followed_and_keeps_its_place(tmp_path):
    (tmp_path / "disk").mkdir()
    file, link = tmp_path / "disk" / "a.json", tmp_path / "link.json"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    with written_aside(link, tmp_path / "b.json") as (a, b):
        a.write_text("new")
        b.write_text("other")
    assert link.is_symlink() and file.read_text() == "new" and (tmp_path / "b.json").read_text() == "other"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["/dev/full", "/dev/null", "."])
def test_what_is_no_file_is_refused_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    device = os.stat(name)
    with pytest.raises(ValueError, match="must be a file, but"), written_aside(name):
        raise AssertionError
    assert os.stat(name).st_mode == device.st_mode and os.listdir(tmp_path) == []


class TestCheckOutputs:
    def test_new_files_are_fine_and_not_made(self, tmp_path):
        check_outputs({"`a`": tmp_path / "a", "`b`": tmp_path / "b"}, [tmp_path, "no/such-dataset"])
        assert os.listdir(tmp_path) == []

    def test_file_of_a_folder_that_is_read_is_an_input(self, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "train.jsonl").write_text("{}")
        with pytest.raises(ValueError, match="`a` must not be a file that is read.* which is in "):
            check_outputs({"`a`": tmp_path / "data" / "train.jsonl"}, [tmp_path / "data"], overwrite=True)

    def test_folder_must_be_there_and_writable(self, tmp_path):
        with pytest.raises(ValueError, match="must exist"):
            check_outputs({"`a`": tmp_path / "none" / "a"})
        (tmp_path / "locked").mkdir(mode=0o500)
        if not os.access(tmp_path / "locked", os.W_OK):  # root may write everywhere
            with pytest.raises(ValueError, match="can be written to"):
                check_outputs({"`a`": tmp_path / "locked" / "a"})

    def test_existing_file_needs_a_word(self, tmp_path):
        (tmp_path / "a").write_text("old")
        with pytest.raises(FileExistsError, match="`a` must be a new file.*or say so"):
            check_outputs({"`a`": tmp_path / "a"}, remedy="say so")
        check_outputs({"`a`": tmp_path / "a"}, overwrite=True)
