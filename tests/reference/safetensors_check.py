# SPDX-License-Identifier: Apache-2.0
"""Compares graft's safetensors reader and writer with the library of that name, both ways.

    python safetensors_check.py TOOL [--cases N] [--seed S]

TOOL is safetensors_tool.cpp compiled. Needs the Python package safetensors; prints SKIPPED without it.
"""
import argparse
import ctypes
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

try:
    import safetensors
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(0)

# graft's name, the library's name when writing, the format's name, bytes
TYPES = [("f64", "float64", "F64", 8), ("f32", "float32", "F32", 4), ("bf16", "bfloat16", "BF16", 2),
         ("f16", "float16", "F16", 2), ("i64", "int64", "I64", 8), ("i32", "int32", "I32", 4),
         ("i16", "int16", "I16", 2), ("i8", "int8", "I8", 1), ("u8", "uint8", "U8", 1)]
PIECES = ["weight", "layers", "0", "11", ".", "_", " ", "é", "日本", "😀", '"', "\\", "/", "\n", "\t", "\x01", "\x7f", "\u2028", "'"]

# Where graft is stricter than the library, on purpose. "too large": extents that overflow unless a later one is 0.
STRICTER = ["appears twice", "more than 64 dimensions", "nested more than 64 deep", "too large",
            "expected an object, got an array", "__metadata__: expected an object, got null"]


def reference_bytes(tensors, metadata):
    """What the library writes. tensors: name -> (type row, shape, data)."""
    keep, specs = [], {}
    for name, (row, shape, data) in tensors.items():
        if hasattr(safetensors, "TensorSpec"):  # from 0.8
            keep.append(ctypes.create_string_buffer(data, max(1, len(data))))
            specs[name] = safetensors.TensorSpec(dtype=row[1], shape=shape, data_ptr=ctypes.addressof(keep[-1]), data_len=len(data))
        else:
            specs[name] = {"dtype": row[1], "shape": shape, "data": data}
    return bytes(safetensors.serialize(specs, metadata or None))


def sorted_by_name_bytes(tensors, metadata):
    """What an old writer made: data in the order of names, at whatever address."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (row, shape, part) in sorted(tensors.items()):
        header[name] = {"data_offsets": [len(data), len(data) + len(part)], "shape": shape, "dtype": row[2]}
        data += part
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2])).encode()
    return struct.pack("<Q", len(text)) + text + data


def random_state():
    def name():
        return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 7)))

    tensors = {}
    for _ in range(rng.randrange(0, 8)):
        row = rng.choice(TYPES)
        shape = [rng.choice([0, 1, 1, 2, 3, 5, 8]) for _ in range(rng.randrange(0, 6))]
        count = 1
        for extent in shape:
            count *= extent
        tensors[name()] = (row, shape, rng.randbytes(count * row[3]))
    return tensors, {name(): name() for _ in range(rng.randrange(0, 4))}


def seen_by_reference(content):
    """The library's view: name -> (format's type name, shape, data)."""
    return {name: (t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(content)}


def metadata_by_reference(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def tool(*words):
    done = subprocess.run([options.tool, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{words[0]}: {done.stderr.strip()}")
    return done.stdout


def check_state(folder):
    tensors, metadata = random_state()
    expected = {name: (row[2], shape, data) for name, (row, shape, data) in tensors.items()}
    reference = reference_bytes(tensors, metadata)
    for content in (reference, sorted_by_name_bytes(tensors, metadata)):
        (folder / "in").write_bytes(content)
        listed = json.loads(tool("list", folder / "in"))
        ours = {name: (kind, shape, bytes.fromhex(data)) for name, kind, shape, data in listed["tensors"]}
        assert ours == {name: (row[0], shape, data) for name, (row, shape, data) in tensors.items()}, "read"
        assert dict(map(tuple, listed["metadata"])) == metadata, "metadata read"

        tool("rewrite", folder / "in", folder / "out")
        written = (folder / "out").read_bytes()
        assert seen_by_reference(written) == expected, "written"
        assert metadata_by_reference(folder / "out") == metadata, "metadata written"
        if len(metadata) <= 1:  # the library writes two and more in an order that changes from run to run
            assert written == reference, "bytes written"
    return len(metadata) <= 1


def mutated():
    tensors, metadata = random_state()
    content = bytearray(sorted_by_name_bytes(tensors, metadata))
    length = struct.unpack("<Q", content[:8])[0]
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(8, 8 + length)
        kind = rng.randrange(4)
        if kind == 0:
            content[at] = rng.choice(b'{}[]":,0123456789-eE. \\ntu\x00\xff')
        elif kind == 1:
            piece = rng.choice([b'{}', b'[]', b'"a":1,', b'"x":{"y":[1]},', b' ', b'0', b'-', b'null', b'1.0', b'1e1', b'"F4"',
                                b'"BOOL"', b'18446744073709551615', b'9223372036854775808', b'\\u00e9', b'\\ud800', b'\xef\xbb\xbf'])
            content[at:at] = piece
            length += len(piece)
        elif kind == 2:
            content[at] ^= 1 << rng.randrange(8)
        else:
            cut = min(rng.randrange(1, 12), 8 + length - at)
            del content[at:at + cut]
            length -= cut
            if length == 0:
                break
    content[:8] = struct.pack("<Q", max(0, length + rng.choice([0] * 20 + [-1, 1])))
    return bytes(content)


def taken_by_reference(content):
    try:
        safetensors.deserialize(content)
        return True
    except Exception:  # SafetensorError, and others for headers that are no text
        return False


def check_mutations(folder, count):
    contents = [mutated() for _ in range(count)]
    paths = [folder / f"mutation{i}" for i in range(count)]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    verdicts = tool("check", *paths).split("\n")[:-1]  # a name may hold other ends of line
    assert len(verdicts) == count, "a verdict for each"
    taken = stricter = 0
    for content, verdict in zip(contents, verdicts):
        reference = taken_by_reference(content)
        taken += verdict == "taken"
        if reference != (verdict == "taken"):
            allowed = reference and any(reason in verdict for reason in STRICTER)
            assert allowed, f"the library {'takes' if reference else 'refuses'} {content!r}; graft: {verdict}"
            stricter += 1
    return taken, stricter


parser = argparse.ArgumentParser()
parser.add_argument("tool")
parser.add_argument("--cases", type=int, default=100)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
rng = random.Random(options.seed)

with tempfile.TemporaryDirectory() as name:
    same = sum(check_state(pathlib.Path(name)) for _ in range(options.cases))
    taken = stricter = 0
    for _ in range(options.cases // 10):
        more = check_mutations(pathlib.Path(name), 200)
        taken, stricter = taken + more[0], stricter + more[1]
print(f"safetensors {safetensors.__version__}: {options.cases} states agree both ways, {same} of them byte for byte; of "
      f"{options.cases // 10 * 200} damaged headers {taken} are taken by both, {stricter} are refused by graft alone, on purpose")
