"""Undefined metrics: null in the JSON with the reason why, so that none of them costs a finished evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable

from hyperbolic_clap.plumbing.errors import UserError, first_line, warn

NO_CLIP = "no clip has a true class"
NO_RELATIVE = "no clip has a class outside its labels, or no class has a relative in the tree"
NO_TWO_LEVELS = ("the tree has not two levels, a clip not one class of the second, or no class is both an answer and "
                 "a truth")  # fmt: skip
REASONS = {
    "auc": "no class is true of some clips and false of others",
    "d_prime": "auc has no finite normal quantile",
    "wrong_top1_distance": "no top-1 is wrong",
    **dict.fromkeys(("_recall@5", ".chance", ".ceiling"), NO_RELATIVE),
    **dict.fromkeys((".hP", ".hR", ".hF"), NO_TWO_LEVELS),
    "hubness_skewness": "there are fewer than three classes, or all texts have as many neighbours",
    "hubness_largest": "there are fewer than three classes",
    "radius_depth": "the radii do not vary, or there are fewer than three classes or only one depth",
    "angle_depth": "the angles do not vary, or there are fewer than three classes or only one depth",
}


def defined_or_null(metrics: dict[str, Callable[[], dict]]) -> tuple[dict, dict[str, str]]:
    """Compute named groups of metrics -> (the groups, {dotted name of every null: why it is undefined}).

    What is not finite becomes None, and so does a whole group whose computation fails, with a warning: everything
    else that was computed is kept. A UserError passes.
    """
    groups: dict[str, dict | None] = {}
    reasons: dict[str, str] = {}
    for name, compute in metrics.items():
        try:
            found = compute()
        except UserError:
            raise
        except Exception as error:  # the last net: the libraries' functions fail in many ways on odd label sets
            reasons[name] = f"{type(error).__name__}: {first_line(error)}"
            warn(f"{name} cannot be computed and is null in the results: {reasons[name]}")
            groups[name] = None
            continue
        groups[name] = _finite(found, name, found.get("reason"), reasons)
    return groups, reasons


def _finite(value, name: str, given: str | None, reasons: dict[str, str]):
    if isinstance(value, dict):
        given = value.get("reason") or given
        return {k: _finite(v, f"{name}.{k}", given, reasons) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        reasons[name] = "not a number" if math.isnan(value) else "infinite"
        return None
    if value is None and not name.endswith(".reason"):
        own = (why for ending, why in REASONS.items() if name.endswith(ending))
        reasons[name] = given or next(own, NO_CLIP)
    return value
