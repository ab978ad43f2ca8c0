"""Random changes to the bytes or the values of a JSON file, for hypothesis."""

import copy
import json

from hypothesis import strategies as st

# Values that a careless reader stumbles over, beside any that hypothesis makes up.
NASTY = [None, True, 0, -1, 1e308, 10**299, [], {}]
NASTY += ["", " ", "A", "F", "MSVD", "MSVD/1", "../x", "a\nb", "\x1b[2J", "é🎬"]
VALUES = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(content, path=()):
    """The path to every value of a JSON tree, outermost first."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def changed_values(draw, content):
    """JSON text of `content` with one to three values replaced, removed or renamed."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        everywhere = list(places(content))
        if not everywhere:
            break
        *parents, last = draw(st.sampled_from(everywhere))
        holder = content
        for each in parents:
            holder = holder[each]
        action = draw(st.sampled_from(["replace", "remove", "rename"]))
        if action == "replace":
            holder[last] = draw(VALUES)
        elif action == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=8) | st.sampled_from(["MSVD/1", "NBA/1", "dataset", "answer"]))] = holder.pop(
                last
            )
    return json.dumps(content).encode()


@st.composite
def changed_bytes(draw, content):
    """The bytes of `content`, cut short, with a part taken out, doubled, or bytes replaced."""
    at = draw(st.integers(0, len(content) - 1))
    length = draw(st.integers(1, 40))
    action = draw(st.sampled_from(["cut", "remove", "double", "replace", "insert"]))
    if action == "cut":
        return content[:at]
    middle = {
        "remove": b"",
        "double": content[at : at + length] * 2,
        "replace": draw(st.binary(min_size=1, max_size=4)),
        "insert": draw(st.binary(min_size=1, max_size=4)) + content[at : at + length],
    }[action]
    return content[:at] + middle + content[at + length :]


def mutated(content):
    return changed_values(content) | changed_bytes(json.dumps(content).encode())


def plain(content):
    """What `json.loads` makes of it, each object as a list of pairs: doubled keys stay."""
    return json.loads(content, object_pairs_hook=lambda pairs: Pairs(pairs))


class Pairs(list):
    """The pairs of one object."""
