"Files that are whole or not there: failing writers, lost folders, who comes first; and settings that differ"
import errno
import os
import re
import subprocess
import sys

import pytest

from locloc.files import LEFTOVER, differences, replace_whole


@pytest.fixture
def settings(tmp_path):
    file = tmp_path/"settings.json"
    file.write_text("old")
    return file


def fails_halfway(aside):
    aside.write_text("ne")
    raise OSError(errno.ENOSPC, "No space left on device")


def fails_halfway_in_a_folder(aside):
    aside.mkdir()
    (aside/"weights").write_text("ne")
    raise OSError(errno.ENOSPC, "No space left on device")


def is_stopped(aside):
    aside.write_text("ne")
    raise KeyboardInterrupt


@pytest.mark.parametrize("write, error", [
    (fails_halfway, OSError), (fails_halfway_in_a_folder, OSError), (is_stopped, KeyboardInterrupt)])
def test_a_writer_that_fails_changes_nothing_and_leaves_nothing(settings, write, error):
    with pytest.raises(error):
        replace_whole(settings, write)
    assert settings.read_text() == "old" and os.listdir(settings.parent) == ["settings.json"]


def test_a_rename_that_fails_changes_nothing_and_leaves_nothing(settings):
    def refuse(aside, file):
        raise OSError(errno.EACCES, "Permission denied")
    with pytest.raises(PermissionError):
        replace_whole(settings, lambda aside: aside.write_text("new"), refuse)
    assert settings.read_text() == "old" and os.listdir(settings.parent) == ["settings.json"]


def test_a_writer_that_fails_in_a_new_folder_leaves_no_file(tmp_path):
    with pytest.raises(OSError):
        replace_whole(tmp_path/"runs/one/settings.json", fails_halfway)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_path_may_be_text(settings):
    replace_whole(str(settings), lambda aside: aside.write_text("new"))
    assert settings.read_text() == "new"


def test_what_is_aside_is_known_as_a_leftover(settings):
    asides = []
    def write(aside):
        asides.append(aside)
        aside.write_text("new")
    replace_whole(settings, write)
    assert asides[0].parent == settings.parent
    assert re.search(LEFTOVER, asides[0].name) and re.search(LEFTOVER, f"train/{asides[0].name}")


@pytest.mark.parametrize("name", ["a.tmp", "train/a.tmp", ".hidden", ".a.tmp/b.png", ".a.tmp.png"])
def test_what_others_wrote_is_no_leftover(name):
    assert not re.search(LEFTOVER, name)


def test_a_folder_takes_the_place_of_another(tmp_path):
    def make_folder_with(name):
        def make(aside):
            aside.mkdir()
            (aside/name).touch()
        return make
    replace_whole(tmp_path/"model", make_folder_with("old"))
    replace_whole(tmp_path/"model", make_folder_with("new"))
    assert os.listdir(tmp_path/"model") == ["new"] and os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_made_leaves_the_old_one(tmp_path):
    (tmp_path/"model").mkdir()
    (tmp_path/"model/old").touch()
    with pytest.raises(OSError):
        replace_whole(tmp_path/"model", fails_halfway_in_a_folder)
    assert os.listdir(tmp_path/"model") == ["old"] and os.listdir(tmp_path) == ["model"]


def losing(times, number):
    "A writer that fails so many times -> the writer, the paths that it was given"
    given = []
    def write(aside):
        given.append(aside)
        if len(given) <= times:
            raise OSError(number, os.strerror(number))
        aside.write_text("new")
    return write, given


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
@pytest.mark.parametrize("times", [1, 2])
def test_what_a_file_system_lost_is_tried_again_under_another_name(settings, number, times):
    write, given = losing(times, number)
    replace_whole(settings, write)
    assert settings.read_text() == "new" and len(set(given)) == len(given) == times + 1


def test_what_is_lost_three_times_is_an_error(settings):
    write, given = losing(3, errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        replace_whole(settings, write)
    assert settings.read_text() == "old" and len(given) == 3


def test_other_errors_are_not_tried_again(settings):
    write, given = losing(1, errno.EACCES)
    with pytest.raises(PermissionError):
        replace_whole(settings, write)
    assert len(given) == 1


def test_a_folder_that_was_deleted_on_the_way_is_made_again(tmp_path):
    def delete_folder_once(aside, file):
        if not moved:
            moved.append(aside)
            aside.unlink()
            aside.parent.rmdir()
        os.replace(aside, file)
    moved = []
    replace_whole(tmp_path/"train/a.png", lambda aside: aside.write_text("new"), delete_folder_once)
    assert (tmp_path/"train/a.png").read_text() == "new" and os.listdir(tmp_path/"train") == ["a.png"]


def test_who_puts_decides_and_nothing_is_left_aside(settings):
    def keep_the_first(aside, file):
        assert aside.read_text() == "new" and file.exists()
    replace_whole(settings, lambda aside: aside.write_text("new"), keep_the_first)
    assert settings.read_text() == "old" and os.listdir(settings.parent) == ["settings.json"]


@pytest.mark.parametrize("there, here, told", [
    ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, "a.b.c is 1 there and 2 here"),
    ({"a": 1, "b": 2}, {"a": 3, "b": 4}, "a is 1 there and 3 here; b is 2 there and 4 here"),
    ({}, {"a": 1}, "a is None there and 1 here"),
    ({"a": 1}, {}, "a is 1 there and None here"),
    ({"a": {"b": 1}}, {"a": "x"}, "a.b is 1 there and None here; a is None there and 'x' here"),
    ({"a": [1, 2]}, {"a": [1, 3]}, "a is [1, 2] there and [1, 3] here"),
    ({"a": 1.0, "b": None}, {"a": 1}, ""),
    ({"b": 1, "a": 2}, {"a": 2, "b": 1}, ""),
])
def test_differences_in_words(there, here, told):
    assert differences(there, here) == told


def test_differences_but_for_outermost_names():
    there, here = {"versions": {"a": 1}, "size": {"versions": 1}}, {"versions": {"a": 2}, "size": {"versions": 2}}
    assert differences(there, here, but=("versions",)) == "size.versions is 1 there and 2 here"


def test_bars_can_be_hidden():
    code = "from locloc.files import progress_bar; progress_bar(True, total=3).update(3)"
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env=os.environ | {"TQDM_DISABLE": hidden}).stderr for hidden in ("", "1")]
    assert "3/3" in said[0] and said[1] == ""
