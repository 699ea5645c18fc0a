"Rules that nbdev itself does not check; and every notebook runs to its last cell."
import ast
import json
import os
import re
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [path for path in sorted((ROOT/"nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
NUMBERED = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
MODULES = [path for path in sorted((ROOT/"locloc").glob("*.py")) if not path.name.startswith("_")]

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


def content_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sources(path, kind):
    "Texts of all cells of a kind, code or markdown"
    return ["".join(cell["source"]) for cell in content_of(path)["cells"] if cell["cell_type"] == kind]


def exported_name(path):
    "Of the module that a notebook writes; None: it writes none"
    found = re.search(r"^#\| default_exp (\S+)", "\n".join(sources(path, "code")), re.MULTILINE)
    return found and found[1]


EXPORTED = {path: exported_name(path) for path in NOTEBOOKS if exported_name(path)}
NUMBERS = {name: int(path.stem[:2]) for path, name in EXPORTED.items()}


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 15


def test_no_two_notebooks_export_one_module():
    counts = Counter(EXPORTED.values())
    assert [name for name, n in counts.items() if n > 1] == []


def test_every_module_has_its_notebook():
    assert {path.stem for path in MODULES} == set(EXPORTED.values())


@every_notebook
def test_no_output_names_a_place_on_the_machine(path):
    said = [str(output.get("text", "")) + str({kind: shown for kind, shown in output.get("data", {}).items()
                                               if not kind.startswith("image/")})
            for cell in content_of(path)["cells"] for output in cell.get("outputs", [])]
    assert not [one for one in said if re.search("/(tmp|home|root|work|Users)/", one)]


@every_notebook
def test_no_widget_state_is_saved(path):
    assert "widgets" not in content_of(path)["metadata"]


@every_notebook
def test_a_notebook_is_smaller_than_1_MB(path):
    assert path.stat().st_size < 1e6


@every_notebook
def test_no_error_is_saved(path):
    for cell in content_of(path)["cells"]:
        assert not any(output["output_type"] == "error" for output in cell.get("outputs", [])), cell["source"]


@every_notebook
def test_the_first_cell_is_a_title_and_a_promise(path):
    first = "".join(content_of(path)["cells"][0]["source"])
    assert first.startswith("# ") and "\n> " in first


@every_notebook
def test_export_directives_stand_in_the_first_line(path):
    "Anywhere else nbdev ignores them and says nothing"
    for source in sources(path, "code"):
        _, *below = source.splitlines() or [""]
        assert not [line for line in below if re.match(r"#\|\s*export", line)], source[:60]


def local_links(markdown):
    "Notebooks that a text links to, as they are written"
    return re.findall(r"\]\((?!https?:)([^)\s#]+\.ipynb)", markdown)


@pytest.mark.parametrize("path", NUMBERED[1:], ids=lambda path: path.stem)
def test_the_first_cell_names_what_comes_before_or_after(path):
    assert local_links(sources(path, "markdown")[0])


@every_notebook
def test_links_to_notebooks_lead_somewhere(path):
    links = local_links("\n".join(sources(path, "markdown")))
    assert [link for link in links if not (path.parent/link).is_file()] == []


@every_notebook
def test_only_the_guarded_last_cell_imports_nbdev(path):
    "A reader has neither it nor what comes with it"
    development = re.compile(r"^(\s*)(?:import|from)\s+(?:nbdev|fastcore|execnb|ghapi)\b", re.MULTILINE)
    *others, last = sources(path, "code")
    assert [source for source in others if development.search(source)] == []
    indents = development.findall(last)
    assert not indents or ('if importlib.util.find_spec("nbdev"):' in last and all(indents))


@every_module
def test_a_module_imports_nothing_of_nbdev(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
    assert not imported & {"nbdev", "fastcore", "execnb", "ghapi"}


@every_module
def test_a_module_imports_only_earlier_ones(path):
    siblings = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            siblings |= {node.module} if node.module else {alias.name for alias in node.names}
    siblings -= {"__version__"}
    later = {name for name in siblings if NUMBERS[name] >= NUMBERS[path.stem]}
    assert not later


def skipped_flags():
    "Directives of cells that no test runs, as settings.ini has them"
    settings = ConfigParser(interpolation=None)
    settings.read(ROOT/"settings.ini", encoding="utf-8")
    return set(settings["DEFAULT"]["tst_flags"].split())


SKIPPED = skipped_flags()
WITHOUT_NBDEV = """import sys
sys.modules.update(dict.fromkeys(("nbdev", "fastcore"))) # as if they were not installed"""


def is_run(cell):
    directives = re.findall(r"^#\|\s*(\w+)", cell.source, re.MULTILINE)
    return not SKIPPED.intersection(directives)


@pytest.fixture(scope="module")
def readers_environment():
    "Without what conftest.py sets for other tests; no hub, one thread"
    kept = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "TQDM_DISABLE")}
    return kept | dict(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")


@every_notebook
def test_a_notebook_runs_to_its_last_cell(path, readers_environment):
    "For a reader who has not installed nbdev; nothing is written back"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [nbformat.v4.new_code_cell(WITHOUT_NBDEV), *filter(is_run, notebook.cells)]
    place = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute(env=readers_environment)
