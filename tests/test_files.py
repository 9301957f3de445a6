"""Files that appear whole or not at all."""

import os

import pytest

from edit_trl.files import written_aside


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
