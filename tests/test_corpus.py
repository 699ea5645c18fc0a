"Every input of the corpus gets its answer or one line; nothing is lost, and nothing is written but to `out`."
import os
import stat

import pytest
from corpus import CASES, letters_of

from locloc.cli import main
from locloc.data import open_picture

ALL = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def tree(folder):
    "What lies in a folder, but for what is below `out`"
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(parent, name) != str(folder/"out")]
        for path in (os.path.join(parent, name) for name in (*folders, *names)):
            facts = os.lstat(path)
            content = open(path, "rb").read() if stat.S_ISREG(facts.st_mode) else None
            found[path] = facts.st_mode, content, os.readlink(path) if stat.S_ISLNK(facts.st_mode) else None
    return found


def run(case, folder):
    "Exit status"
    try:
        if callable(case.run):
            case.run(folder)
        else:
            main([*case.run])
    except SystemExit as end:
        return end.code or 0
    return 0


@ALL
def test_hostile_input(case, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"out"/"cache"))
    (tmp_path/"in").mkdir()
    case.make(tmp_path/"in")
    capfd.readouterr()
    before = tree(tmp_path)
    status = run(case, tmp_path)
    out, err = capfd.readouterr()
    assert status == case.status, out + err
    told = out + err if status == 0 or case.many else err
    for words in case.says:
        assert words in told
    assert "Traceback" not in out + err
    if status == 1 and told is err:
        line = err.splitlines()[-1]
        assert line.startswith("locloc: ") and len(line) < 1000
        assert all(one.startswith("locloc: ") for one in err.splitlines()), err
        assert all(words in line for words in case.says), err
    assert tree(tmp_path) == before
    if case.sees is not None:
        assert letters_of(open_picture(tmp_path/case.run[1])) == case.sees


def test_the_corpus_is_large_and_its_names_differ():
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
