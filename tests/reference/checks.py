# SPDX-License-Identifier: Apache-2.0
"""What the checks of models share: a line for each, and how far numbers are apart."""
import math

failures = []


def check(name, value, limit, unit=""):
    good = value <= limit
    print(f"  {'ok  ' if good else 'FAIL'} {name}: {value:.3g}{unit} (limit {limit:g})", flush=True)
    if not good:
        failures.append(name)


def difference(ours, theirs):
    """Largest difference relative to the largest reference."""
    theirs = theirs.detach().double().reshape(-1)
    ours = ours.double().reshape(-1)
    if ours.shape != theirs.shape:
        return math.inf
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)).item()
