"""What every metric must give for the tensors of a dump, by numpy in float64, and how close is close enough."""

import json
import math
import pathlib

import numpy as np


def _central(x, order):
    return np.mean((x - np.mean(x)) ** order)


def _standardised(x, order, minus):
    with np.errstate(invalid="ignore", divide="ignore"):
        return _central(x, order) / _central(x, 2) ** (order / 2) - minus


def _variance(x):
    return np.var(x, ddof=1) if x.size > 1 else math.nan


def _norm(order):
    if order == 0:
        return lambda x: float(np.count_nonzero(x))
    if order == math.inf:
        return lambda x: np.max(np.abs(x))
    return lambda x: np.sum(np.abs(x) ** order) ** (1 / order)


# Suffix of the topic -> value of a flat float64 array.
METRICS = {
    "mean": np.mean,
    "variance": _variance,
    "sum": np.sum,
    "norm2": _norm(2),
    "norm1": _norm(1),
    "norm_inf": _norm(math.inf),
    "norm0": _norm(0),
    "norm3": _norm(3),
    "min": np.min,
    "max": np.max,
    "abs_max": lambda x: np.max(np.abs(x)),
    "abs_mean": lambda x: np.mean(np.abs(x)),
    "rms": lambda x: np.sqrt(np.mean(x * x)),
    "std": lambda x: np.sqrt(_variance(x)),
    "zero_fraction": lambda x: np.mean(x == 0),
    "nan_count": lambda x: float(np.count_nonzero(np.isnan(x))),
    "inf_count": lambda x: float(np.count_nonzero(np.isinf(x))),
    "skewness": lambda x: _standardised(x, 3, 0),
    "kurtosis": lambda x: _standardised(x, 4, 3),
}
EXACT = {"min", "max", "abs_max", "norm_inf", "norm0", "nan_count", "inf_count"}
# The same as a subscriber is written.
WRITTEN = {f"norm{suffix}": f"norm({{kind}}, order={order})" for suffix, order in
           (("2", 2), ("1", 1), ("_inf", "inf"), ("0", 0), ("3", 3))}


def subscriber(metric, arguments):
    return WRITTEN.get(metric, f"{metric}({{kind}})").format(kind=arguments)


def tolerance(metric, x, want):
    """The absolute error allowed for this metric of this tensor."""
    if metric in EXACT:
        return 0.0
    if metric == "mean":
        return 1e-6 * np.mean(np.abs(x))
    if metric == "sum":
        return 1e-6 * np.sum(np.abs(x))
    if metric == "variance":
        return 1e-6 * max(want, 1e-6 * np.mean(x) ** 2)
    if metric == "std":  # what a variance within its tolerance can become
        spread = 1e-6 * max(want**2, 1e-6 * np.mean(x) ** 2)
        return max(1e-6 * want, math.sqrt(want**2 + spread) - want)
    if metric in ("skewness", "kurtosis"):
        return 1e-5 * (1 + abs(want))
    return 1e-6 * abs(want)


def difference(metric, x, want, got):
    """None if `got` is close enough to `want`, else a text."""
    if math.isnan(want) or math.isinf(want) or math.isnan(got):
        same = got == want or (math.isnan(got) and math.isnan(want))
        return None if same else f"{got!r} instead of {want!r}"
    allowed = tolerance(metric, x, want)
    if abs(got - want) <= allowed:
        return None
    return f"{got!r} instead of {want!r}: off by {abs(got - want):.3g}, allowed {allowed:.3g}"


class DumpedTensors:
    """The tensors of a dump, those of one series and step put together as if concatenated."""

    def __init__(self, folder, renamed):
        """`renamed`: {kind in the dump: kind as published, or None to leave it out}."""
        self.folder = pathlib.Path(folder)
        self.parts = {}  # (kind, tag, module, param, step) -> list of (micro, call, file)
        for entry in json.loads((self.folder / "index.json").read_text())["entries"]:
            kind = renamed.get(entry["kind"], entry["kind"])
            if kind is not None:
                key = (kind, entry["tag"], entry["module"], entry["param"], entry["step"])
                self.parts.setdefault(key, []).append((entry["micro"], entry["call"], entry["file"]))

    def keys(self, tag, kind=None):
        return [key for key in self.parts if key[1] == tag and kind in (None, key[0])]

    def arrays(self, key):
        return [np.load(self.folder / file) for _, _, file in sorted(self.parts[key])]

    def flat(self, key):
        return np.concatenate([array.astype(np.float64).ravel() for array in self.arrays(key)])
