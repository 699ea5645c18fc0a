"Rules that nbdev itself does not check."
import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest

root = Path(__file__).parents[1]
notebooks = sorted((root/"nbs").rglob("*.ipynb"))
modules = sorted(p for p in (root/"locloc").glob("*.py") if not p.name.startswith("_"))


def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


def exported_name(path):
    names = [m[1] for c in cells(path) if c["cell_type"] == "code" and (m := re.match(r"#\| default_exp (\S+)", "".join(c["source"])))]
    return names[0] if names else None


NUMBERS = {exported_name(path): int(path.stem[:2]) for path in notebooks if exported_name(path)}


def test_there_are_notebooks(): assert len(notebooks) >= 15


def test_no_two_notebooks_export_one_module():
    counts = Counter(filter(None, map(exported_name, notebooks)))
    assert [name for name, n in counts.items() if n > 1] == []


def test_every_module_has_its_notebook(): assert {p.stem for p in modules} == set(filter(None, map(exported_name, notebooks)))


@pytest.mark.parametrize("path", notebooks, ids=lambda p: p.stem)
def test_notebook_is_fit_to_publish(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in content["metadata"], "saved widget state"
    assert path.stat().st_size < 1e6, "larger than 1 MB"
    sources = ["".join(c["source"]) for c in content["cells"]]
    assert sources[0].startswith("# ") and "\n> " in sources[0], "the first cell is a title and a promise"
    for cell, source in zip(content["cells"], sources):
        assert not any(o["output_type"] == "error" for o in cell.get("outputs", [])), f"saved error in {source[:60]!r}"
        late = [line for line in source.splitlines()[1:] if re.match(r"#\|\s*export", line)]
        assert not (cell["cell_type"] == "code" and late), f"export directive below the first line in {source[:60]!r}"


@pytest.mark.parametrize("path", modules, ids=lambda p: p.stem)
def test_module_imports_only_earlier_ones(path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    siblings, others = set(), set()
    for node in tree:
        if isinstance(node, ast.ImportFrom) and node.level:
            siblings.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {a.name.split(".")[0] for a in node.names}
    assert not others & {"nbdev", "fastcore", "execnb"}
    assert all(NUMBERS[s] < NUMBERS[path.stem] for s in siblings if s), f"{path.stem} imports {siblings}"
