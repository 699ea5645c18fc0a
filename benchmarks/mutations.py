"""Faults set into readers and writers, one at a time: does some test notice each?

    python benchmarks/mutations.py [--only WORD]

Each fault is one change of one line in a copy of the package. Tests of the module run against the copy until one fails;
a fault that all of them pass is not caught, and the exit status is 1.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    what: str
    file: str # in locloc/
    there: str # what stands there, once
    instead: str
    tests: str # files in tests/ and what pytest is told


FAULTS = (
    Fault("EXIF orientation 6 turned the wrong way", "data.py", "6: Image.Transpose.ROTATE_270",
          "6: Image.Transpose.ROTATE_90", "test_corpus.py -k turned"),
    Fault("16-bit greys divided by 256", "data.py", "(grey / 257)", "(grey / 256)",
          "test_data.py test_corpus.py -k sixteen"),
    Fault("a picture's size is not compared with its list's", "data.py", "if picture.shape[:2] != tuple(size):",
          "if False:", "test_corpus.py -k size"),
    Fault("a list's line counted one too low", "layouts.py", "line = reader.line_num + 1\n            for",
          "line = reader.line_num\n            for", "test_corpus.py -k list"),
    Fault("CUB's box ends at its width", "layouts.py", "_box(x, y, x + w, y + h, built.size(i)))\n\n    _for",
          "_box(x, y, w, h, built.size(i)))\n\n    _for", "test_layouts.py"),
    Fault("VOC's first pixel is 0", "layouts.py", "_read_xml(path, 1)", "_read_xml(path, 0)", "test_layouts.py"),
    Fault("a path in a list may lead above", "layouts.py", 'or ".." in path.parts or', "or", "test_corpus.py -k above"),
    Fault("a link in an archive is unpacked", "fetch.py", "if not (member.isfile() or member.isdir()):", "if False:",
          "test_fetch.py test_corpus.py -k link"),
    Fault("an archive's checksum is not compared", "fetch.py", "if sha256 != archive.sha256:", "if False:",
          "test_fetch.py test_corpus.py -k archive"),
    Fault("weights may run code", "backbone.py", "weights_only=True", "weights_only=False",
          "test_corpus.py -k weights"),
    Fault("weights of NaN are loaded", "backbone.py", "if not value.isfinite().all()", "if False",
          "test_corpus.py -k weights"),
    Fault("a mask of greys is read as it is", "stores.py", "if mask.dtype != bool:", "if False:",
          "test_corpus.py -k store"),
    Fault("a mask is written inverted", "stores.py", "Image.fromarray(mask).save", "Image.fromarray(~mask).save",
          "test_stores.py"),
    Fault("a file is written in place", "files.py", "                write(aside)\n", "                write(path)\n",
          "test_files.py"),
    Fault("a store of other thresholds is filled on", "stores.py", "        if different:\n", "        if False:\n",
          "test_corpus.py -k store"),
    Fault("YOLO's box begins at its corner", "report.py", "(x0 + x1)/2/w", "x0/w", "test_evaluate.py test_cli.py"),
    Fault("COCO's box has its end for a width", "report.py", "bbox=[x0, y0, x1 - x0, y1 - y0]", "bbox=[x0, y0, x1, y1]",
          "test_evaluate.py test_cli.py"),
    Fault("a resumed run keeps the lines of steps that it takes again", "train.py", 'json.loads(line)["step"] <= step',
          "True", "test_train.py -k killed"),
    Fault("a resumed run forgets its optimizer", "train.py", "optimizer.load_state_dict(", "(lambda state: None)(",
          "test_train.py -k killed"),
    Fault("class names are written as ASCII alone", "model.py", 'encoding="utf-8", errors="backslashreplace")}',
          'encoding="ascii", errors="ignore")}', "test_model.py"),
)


def first_failure(folder, tests):
    "The first test that fails with the package in this folder, as pytest is told it; None: all pass"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | dict(PYTHONPATH=str(folder))
    ran = subprocess.run(command, cwd=ROOT/"tests", env=environment, capture_output=True, text=True)
    if ran.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {ran.returncode}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+\.py::\w+(\[.*?\](?= - |$))?)", ran.stdout, re.MULTILINE)
    return failed and failed[1]


def caught_by(fault, folder):
    "The first test that fails with this fault, and passes without it; None: no test does"
    shutil.copytree(ROOT/"locloc", folder/"locloc", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder/"locloc"/fault.file
    text = file.read_text()
    if text.count(fault.there) != 1:
        raise SystemExit(f"{fault.what}: {fault.file} has {text.count(fault.there)} times {fault.there!r}")
    file.write_text(text.replace(fault.there, fault.instead))
    test = first_failure(folder, fault.tests.split())
    if test and first_failure(ROOT, [test]):
        raise SystemExit(f"{test} fails without any fault: mend that first")
    return test


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only faults whose words hold this")
    faults = [fault for fault in FAULTS if parser.parse_args().only in fault.what]
    missed = 0
    print("| fault | in | caught by |\n|---|---|---|")
    for fault in faults:
        with tempfile.TemporaryDirectory() as folder:
            test = caught_by(fault, Path(folder))
        missed += test is None
        print(f"| {fault.what} | `{fault.file}` | {f'`{test}`' if test else 'NO TEST'} |", flush=True)
    print(f"\n{len(faults) - missed} of {len(faults)} caught")
    raise SystemExit(missed > 0)


if __name__ == "__main__":
    main()
