"""docs/result.schema.json says what the reader takes: the same fields, the same rows taken and refused."""

import json
import math

import pytest

from tests.support.paths import ROOT
from videobench.data.rows import ROW_FIELDS, build_reply

SCHEMA = json.loads((ROOT / "docs/result.schema.json").read_text(encoding="utf-8"))
ROW = SCHEMA["additionalProperties"]
TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "number": (int, float), "integer": int,
    "null": type(None),
}  # fmt: skip
KEYWORDS = {
    "$schema", "title", "description", "type", "properties", "additionalProperties", "propertyNames", "enum", "items",
    "anyOf", "required", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
    "minLength", "minProperties",
}  # fmt: skip
WHOLE = {
    "video_id": 7011, "dataset": "MSVD", "vid_path": "Eval_video/MSVD/x.avi", "question": "what? A.cat B.dog",
    "choices": {"A": "cat", "B": 2, "C": None}, "output_sequence": ["A"], "letter_logprobs": {"A": -0.5, "B": None},
    "letter_bounds": {"C": -9.0}, "option_mass": 0.6, "num_output_tokens": 2, "finish_reason": "stop",
    "is_greedy": True, "prompt_tokens": 130, "expected_prompt_tokens": 130, "prompt_sha256": "0", "video_sha256": "1",
    "pixels_sha256": "2", "frames_decoded": 10, "frames_stated": 10, "resolution": "320x240", "rank": 0,
    "run": {"dtype": "float16"}, "nonfinite": False, "error": "",
}  # fmt: skip


def fits(value, schema):
    """Whether JSON fits a schema; the keywords that ours uses, and no other."""
    assert set(schema) <= KEYWORDS
    types = schema.get("type", [])
    if types and not any(is_type(value, name) for name in ([types] if isinstance(types, str) else types)):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
        in_range = schema.get("minimum", value) <= value <= schema.get("maximum", value) and low < value < high
        if not in_range:
            return False
    if isinstance(value, str) and (value not in schema.get("enum", [value]) or len(value) < schema.get("minLength", 0)):
        return False
    if isinstance(value, list):
        is_fit = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
        if not is_fit or not all(fits(each, schema.get("items", {})) for each in value):
            return False
    if isinstance(value, dict) and not object_fits(value, schema):
        return False
    return any(fits(value, each) for each in schema["anyOf"]) if "anyOf" in schema else True


def object_fits(value, schema):
    own, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
    return (
        set(schema.get("required", [])) <= set(value)
        and len(value) >= schema.get("minProperties", 0)
        and all(fits(name, schema.get("propertyNames", {})) for name in value)
        and all(fits(each, own.get(name, rest)) for name, each in value.items())
    )


def is_type(value, name):
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def is_read(row):
    try:
        build_reply(("MSVD", "1"), "1", row)
    except ValueError:
        return False
    return True


def test_the_schema_has_the_fields_of_a_row():
    assert set(ROW["properties"]) == ROW_FIELDS == set(WHOLE)


@pytest.mark.parametrize("row", [WHOLE, {"output_sequence": "A"}, {"error": "no video"}])
def test_a_row_fits_and_is_read(row):
    assert fits({"MSVD/1": row}, SCHEMA)
    assert is_read(row)


@pytest.mark.parametrize(
    "value",
    [None, True, 7, -0.5, 1e12, 1e300, "", "x", [], ["x"], ["x", "y"], [7], {}, {"A": -1.0}, {"A": "x"}, {"G": 0}],
)
@pytest.mark.parametrize("field", sorted(set(WHOLE) - {"dataset"}))
def test_another_value_fits_where_it_is_read(field, value):
    row = {"output_sequence": ["A"], field: value}
    assert fits({"MSVD/1": row}, SCHEMA) == is_read(row)


@pytest.mark.parametrize("output", [{}, {"output_sequence": None}, {"output_sequence": "A"}, {"output_sequence": []}])
@pytest.mark.parametrize("error", [{}, {"error": None}, {"error": ""}, {"error": "no video"}])
def test_what_a_row_must_have(output, error):
    assert fits({"MSVD/1": output | error}, SCHEMA) == is_read(output | error)


def test_a_file_without_rows_or_with_an_empty_one_does_not_fit():
    assert not fits({}, SCHEMA)
    assert not fits({"MSVD/1": []}, SCHEMA)
    assert not fits({"MSVD/1": {}}, SCHEMA)
