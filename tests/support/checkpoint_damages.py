"""What can be wrong with a checkpoint: functions that take the folder of a copy, and functions that make such ones."""

import json
import os
import shutil
import socket
import struct


def change(model, name, **entries):
    (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | entries))


def change_header(model, change_entries):
    """The header of the weights, with its length; the tensors behind it stay."""
    path = model / "model.safetensors"
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = change_entries(json.loads(content[8:end]))
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[end:])


def shard(model, **changes):
    """Two shards and their index, as large checkpoints come; `changes` to the index."""
    shutil.copy(model / "model.safetensors", model / "a.safetensors")
    shutil.move(model / "model.safetensors", model / "b.safetensors")
    header = (model / "a.safetensors").read_bytes()
    weights = json.loads(header[8 : 8 + struct.unpack("<Q", header[:8])[0]])
    names = [name for name in weights if name != "__metadata__"]
    by_weight = {name: "a.safetensors" if index % 2 else "b.safetensors" for index, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": by_weight} | changes
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return by_weight


def write(name, content):
    return lambda model: (model / name).write_bytes(content)


def set_first(field, value):
    def entries(header):
        name = next(name for name in header if name != "__metadata__")
        return header | {name: header[name] | {field: value}}

    return lambda model: change_header(model, entries)


def cut_a_shard(model):
    shard(model)
    path = model / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def rename_a_weight(model):
    change_header(model, lambda header: {("x" + name if "lm_head" in name else name): header[name] for name in header})


def empty(model):
    shutil.rmtree(model)
    model.mkdir()


def pickled_only(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def set_in(name, value, part=None):
    """A damage: one entry of a file or of an object in it."""

    def damage(model):
        whole = json.loads((model / name).read_text()) if (model / name).exists() else {}
        (whole if part is None else whole[part]).update(value)
        (model / name).write_text(json.dumps(whole))

    return damage


def config(part=None, **entries):
    return set_in("config.json", entries, part)


def text(**entries):
    return config("text_config", **entries)


def vision(**entries):
    return config("vision_config", **entries)


def rope(value):
    """In place of what the small model states of it."""

    return text(rope_parameters=None, rope_scaling=value)


def ends_with(value):
    return set_in("generation_config.json", {"eos_token_id": value})


def no_end_stated(model):
    for name, part in (("generation_config.json", None), ("config.json", "text_config")):
        set_in(name, {"eos_token_id": None}, part)(model)
    set_in("tokenizer_config.json", {"eos_token": None})(model)


def tokenizer(change_content):
    """A damage to tokenizer.json; `change_content` changes it in place."""

    def damage(model):
        content = json.loads((model / "tokenizer.json").read_text())
        change_content(content)
        (model / "tokenizer.json").write_text(json.dumps(content))

    return damage


def replaced(name, make):
    """A damage: something else where a file was."""

    def damage(model):
        (model / name).unlink(missing_ok=True)
        make(model / name)

    return damage


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # its whole path may be too long


def make_sparse(path):
    with path.open("wb") as file:
        file.truncate(10**12)


def change_between_fingerprint_blocks(model):
    """One bit of a weight. The fingerprint takes 64 KiB at each 15th of the file."""
    path = model / "model.safetensors"
    with path.open("r+b") as file:
        place = path.stat().st_size // 30
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def overlap(header):
    first, second = [name for name in header if name != "__metadata__"][:2]
    return header | {second: header[second] | {"data_offsets": header[first]["data_offsets"]}}
