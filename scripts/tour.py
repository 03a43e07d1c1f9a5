"""Execute docs/tour.ipynb, and keep what it shows: after a change of the notebook, or of what it tells about.

    python scripts/tour.py              execute it and write its outputs
    python scripts/tour.py --check      compare them with those in the file; exit code 1 where they differ

It needs `pip install nbclient ipykernel matplotlib pillow tqdm`.  Cells with the tag "times" show what differs from
machine to machine; they must run, and are not compared.  Of pictures, only the number is.
"""
import argparse
import copy
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
SECONDS = 300                   # that a cell may take


def executed(notebook):
    """A copy of a notebook, with the outputs of this machine."""
    import nbclient

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fresh = copy.deepcopy(notebook)
    nbclient.NotebookClient(fresh, timeout=SECONDS, kernel_name="python3", coalesce_streams=True,
                            resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    for cell in fresh.cells:
        cell.metadata.pop("execution", None)            # when it ran
    return fresh


def shown(cell):
    """(the text that a code cell shows, the number of its pictures)"""
    data = [output.get("data", {}) for output in cell.outputs]
    text = [output.get("text", "") for output in cell.outputs]
    text += [each.get("text/html", each.get("text/plain", "")) for each in data if "image/png" not in each]
    return re.sub("base64,[^\"]+", "", "".join(text)), sum("image/png" in each for each in data)


def differences(kept, fresh):
    """A sentence for each cell whose output is not the kept one."""
    for number, (before, now) in enumerate(zip(kept.cells, fresh.cells, strict=True)):
        compared = before.cell_type == "code" and "times" not in before.metadata.get("tags", ())
        if compared and shown(before) != shown(now):
            yield (f"cell {number} of {NOTEBOOK.name} shows\n{shown(now)}\nand did show\n{shown(before)}\n"
                   "(python scripts/tour.py writes it anew)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    import nbformat

    kept = nbformat.read(NOTEBOOK, 4)
    fresh = executed(kept)
    if not args.check:
        nbformat.write(fresh, NOTEBOOK)
        print(f"Wrote {NOTEBOOK}, {NOTEBOOK.stat().st_size / 1e3:.0f} kB")
        return 0
    found = list(differences(kept, fresh))
    print("\n\n".join(found) or "All cells show what they did.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
