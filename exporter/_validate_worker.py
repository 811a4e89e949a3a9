"""The process that runs a validation (``exporter/limited.py`` starts it). The only argument is a JSON object."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path
from typing import TextIO

from vggt_edge.runtimes.common.worker import Answer, answer_once


def _validate(arguments: list[str], _answers: TextIO) -> Answer:
    from vggt_edge.exporter import rerun
    from vggt_edge.exporter.cli import explain
    from vggt_edge.exporter.machine.process import prepare_streams
    from vggt_edge.exporter.machine.progress import make_progress

    prepare_streams()
    options = json.loads(arguments[0])
    bundle, log_level = Path(options.pop("bundle")), options.pop("log_level")
    as_json = bool(options.pop("as_json"))
    if "scenes" in options:
        options["scenes"] = Path(options["scenes"])
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.disable(logging.NOTSET)
    try:
        report = rerun.validate(bundle, make_progress(quiet=log_level == "error", as_json=as_json), **options)
    except Exception as error:
        if log_level == "debug":
            traceback.print_exc()
        return {"raised": explain(error).fields}
    return {"report": report.to_json()}


if __name__ == "__main__":
    answer_once(_validate)
