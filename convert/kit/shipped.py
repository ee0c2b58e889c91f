"""A work folder that begins with the shipped kit: a recipe then trains what the kit lacks."""

import json
import shutil
from collections.abc import Iterable

from charprobe_lite.convert.kit.work_folder import WorkFolder, write_text
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json
from charprobe_lite.models.kit import kit_folder


def copy_shipped(folder: WorkFolder, steps: Iterable[str]) -> None:
    """Put the files of the shipped kit and the records of these steps into a work folder.

    Records that are there stay. Raises BadInput where one of them is not the shipped kit's. The
    step "base" gets no record: it is the merged base, which the kit lacks.
    """
    manifest = read_json(kit_folder() / "kit.json")
    records = {folder.work / "steps" / f"{step}.json": step for step in steps if step != "base"}
    for path, step in records.items():
        if path.exists() and read_json(path) != manifest["steps"][step]:
            raise BadInput(f"{path}: not of the shipped kit; choose another --out")
    missing = {path: step for path, step in records.items() if not path.exists()}
    if not missing:  # records come last: the files are there
        return
    for name in manifest["files"]:
        with new_file(folder.kit / name) as part:  # another process may be reading it
            shutil.copy(kit_folder() / name, part)
    for path, step in missing.items():
        write_text(path, json.dumps(manifest["steps"][step], indent=1))
