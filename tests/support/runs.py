"""What a run of the small set wrote."""

import json

SET = "MSVD"


def results(folder, name=SET):
    return json.loads((folder / "out" / f"{name}_eval.json").read_text(encoding="utf-8"))
