"""The files that a model consists of, looked at before OpenVINO reads them."""

from __future__ import annotations

import os
from pathlib import Path
from xml.parsers import expat

from lcmcore.util.files import is_within, open_regular, open_solid
from lcmcore.util.placeholder import EMPTY, placeholder_at
from runtimes.onnx.model_files import external_files

IR = "openvino_model.xml"  # as optimum names OpenVINO's own format


def model_files(path: Path) -> list[Path]:
    """A model's file, and those that hold its weights.

    Raises ValueError for a file that is not what its name says, whose weights lie outside of its
    folder, or that was never fetched; OSError for one that is missing, or no regular file.
    """
    if path.suffix != ".xml":
        return external_files(path)
    weights = path.with_suffix(".bin")
    folders = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent
    if not is_within(weights, folders):  # as of ONNX's external data
        raise ValueError(f"{weights} leads outside of its folder: copy the file there")
    for each in (path, weights):
        open_solid(each).close()
        found = placeholder_at(each)
        if found is not None and (found != EMPTY or each == path):
            raise ValueError(f"{each}: {found}")
    _require_xml(path)
    return [path, weights]


def _require_xml(path: Path) -> None:
    """Raise ValueError for broken XML: OpenVINO would try its readers of other formats on it."""

    def refuse(*_: object) -> None:
        raise ValueError(f"{path} declares a document type, which OpenVINO does not write")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        with open_regular(path) as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise ValueError(f"{path} is not valid XML: {error}") from error
