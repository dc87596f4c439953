# SPDX-License-Identifier: Apache-2.0
"""Compares graft's .npy files, both ways, its operations on tensors and its printing with NumPy.

    python npy_check.py TOOL

TOOL is npy_tool.cpp compiled. Needs the Python package numpy; prints SKIPPED without it.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(0)

checks = 0


def check(good, what):
    global checks
    checks += 1
    if not good:
        sys.exit(f"FAILED: {what}")


def copies(run, folder, random):
    """What NumPy wrote comes back from graft as the same array, and C-ordered files as the same bytes."""
    for type_name in ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8"]:
        for shape in [(), (1,), (7,), (0,), (3, 4), (2, 0, 3), (2, 3, 4), (2, 3, 4, 5)]:
            for order in "CF":
                array = np.asarray(random.normal(size=shape) * 50).astype(type_name, order=order)
                np.save(folder / "in.npy", array)
                done = run("copy", type_name, len(shape), folder / "in.npy", folder / "out.npy")
                check(done.returncode == 0, f"copy {type_name} {shape} {order}: {done.stderr}")
                again = np.load(folder / "out.npy")
                check(again.dtype == array.dtype and again.shape == shape and np.array_equal(again, array), f"copy {type_name} {shape} {order}")
                if np.load(folder / "in.npy").flags.c_contiguous:
                    check((folder / "in.npy").read_bytes() == (folder / "out.npy").read_bytes(), f"bytes of {type_name} {shape}")
    with open(folder / "in.npy", "wb") as file:
        np.lib.format.write_array(file, np.arange(6.0).reshape(2, 3), version=(2, 0))
    check(run("copy", "float64", 2, folder / "in.npy", folder / "out.npy").returncode == 0, "version 2.0")
    check(np.array_equal(np.load(folder / "out.npy"), np.arange(6.0).reshape(2, 3)), "version 2.0")


def refusals(run, folder):
    for array, words in [(np.zeros(3, ">f4"), "big-endian"), (np.zeros(3, "complex64"), "<c8"), (np.zeros(3, "uint32"), "<u4"),
                         (np.zeros(3, [("a", "f4")]), "structures"), (np.zeros((2, 3), "float32"), "expected rank 1"), (np.zeros(3), "expected f32")]:
        np.save(folder / "in.npy", array)
        done = run("copy", "float32", 1, folder / "in.npy", folder / "out.npy")
        check(done.returncode == 1 and words in done.stderr, f"refusal of {array.dtype}: {done.stderr}")


def printing(run, folder, random):
    """Text is the same as NumPy's, with its options set to ours."""
    arrays = [random.normal(size=(3, 4)), random.normal(size=(3, 4)) * 1e-5, random.normal(size=(2, 2)) * 1e9, np.arange(12.0).reshape(3, 4),
              np.array([[1.5, np.inf], [np.nan, -2]]), np.array([[1e-300, 1e300]]), np.array([[0, 12345678.0]]), np.array([[0.5, 0.25]]) * 1e-4,
              np.arange(4000.0).reshape(40, 100), random.normal(size=(300, 4)), np.zeros((2, 2)), np.array([[np.inf, -np.inf]]), np.array([[-1e10, 2.5e10]])]
    for array in arrays:
        np.save(folder / "in.npy", array)
        text = np.array2string(array, precision=4, max_line_width=10**6)
        done = run("print", folder / "in.npy")
        check(done.stdout == text + "\n", f"printing: graft has\n{done.stdout}\nNumPy has\n{text}")


def numerics(run, folder, random):
    a, b = (random.normal(size=(4, 5, 6)).astype("float32") for _ in range(2))
    a[1, 2] = a[1, 3]  # ties
    row, column = random.normal(size=6).astype("float32"), random.normal(size=(5, 1)).astype("float32")
    for name, array in {"a": a, "b": b, "row": row, "column": column}.items():
        np.save(folder / f"{name}.npy", array)
    done = run("compute", folder)
    check(done.returncode == 0, done.stderr)
    wide = a.astype("float64")
    expected = {"add": a + row, "subtract": column - a, "multiply": row * column, "divide": a / b, "less": (a < b).astype("uint8"), "fused": np.exp(wide) * row,
                "matmul": wide @ b.astype("float64").transpose(0, 2, 1), "matvec": wide @ row.astype("float64"),
                "top_indices": np.argsort(-a, axis=-1, kind="stable")[..., :4], "top_values": -np.sort(-a, axis=-1)[..., :4]}
    for axis in range(3):
        exponentials = np.exp(wide)
        total = exponentials.sum(axis, keepdims=True)
        expected |= {f"sum{axis}": wide.sum(axis), f"mean{axis}": wide.mean(axis), f"var{axis}": wide.var(axis, ddof=1), f"max{axis}": a.max(axis),
                     f"argmin{axis}": a.argmin(axis), f"logsumexp{axis}": np.log(total).squeeze(axis), f"softmax{axis}": exponentials / total,
                     f"log_softmax{axis}": wide - np.log(total), f"sort{axis}": np.sort(a, axis), f"argsort{axis}": np.argsort(a, axis, kind="stable"),
                     f"concatenate{axis}": np.concatenate([a, b], axis), f"take{axis}": a.take([3, 0, 3], axis), f"stack{axis}": np.stack([a, b], axis)}
    for name, reference in expected.items():
        got = np.load(folder / f"{name}.npy")
        check(got.shape == reference.shape, f"{name}: shape {got.shape}, NumPy has {reference.shape}")
        check(got.dtype == (reference.dtype if reference.dtype.kind in "iu" else np.float32), f"{name}: {got.dtype}")
        if reference.dtype.kind in "iu":
            check(np.array_equal(got, reference), name)
        else:
            bound = 16 * np.finfo("float32").eps * np.abs(reference).max()
            check(np.abs(got - reference).max() <= bound, f"{name}: differs by {np.abs(got - reference).max()}, allowed {bound}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool", type=pathlib.Path)
    tool = parser.parse_args().tool.resolve()
    run = lambda *arguments: subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        copies(run, folder, random)
        refusals(run, folder)
        printing(run, folder, random)
        numerics(run, folder, random)
    print(f"{checks} checks against NumPy {np.__version__} passed")


main()
