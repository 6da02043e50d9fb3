"""LightGBM's text from elsewhere, read with suspicion.

LightGBM trusts such a text: a torn one, or one number too few in a list, ends the process or reads
foreign memory. What passes here it can load and score with.
"""

from __future__ import annotations

import math
import re

_HEADER = (
    *("tree", "version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx"),
    *("objective", "feature_names", "feature_infos", "tree_sizes", ""),
)
# Lists of a tree in their order: whether of whole numbers, and whether one for each leaf.
_LISTS = {
    "split_feature": (True, False),
    "split_gain": (False, False),
    "threshold": (False, False),
    "decision_type": (True, False),
    "left_child": (True, False),
    "right_child": (True, False),
    "leaf_value": (False, True),
    "leaf_weight": (False, True),
    "leaf_count": (True, True),
    "internal_value": (False, False),
    "internal_weight": (False, False),
    "internal_count": (True, False),
}
_TREE = ("num_leaves", "num_cat", *_LISTS, "is_linear", "shrinkage")
_WHOLE = re.compile(r"-?[0-9]{1,9}")
_REAL = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?")
_RANGE = re.compile(rf"none|\[{_REAL.pattern}:{_REAL.pattern}\]")
_PARAMETER = re.compile(r"\[(\w+): [^:\[\]\n]*\]\n")
_TAIL = re.compile(
    r"end of trees\n\nfeature_importances:\n(?:Column_[0-9]+=[0-9.]+\n)*"
    rf"\nparameters:\n((?:{_PARAMETER.pattern})+)\nend of parameters\n\npandas_categorical:null\n"
)


def check_trees(text: str, n_features: int) -> None:
    """Let only the text of a binary classifier on plain numbers through.

    Parameters
    ----------
    text : str
        LightGBM's text format.
    n_features : int
        Columns that will be scored.

    Raises
    ------
    ValueError
        It is not such a text, or is damaged.

    Examples
    --------
    >>> check_trees("tree", 11)
    Traceback (most recent call last):
    ...
    ValueError: no trees
    """
    head, found, _ = text.partition("\nTree=0\n")
    if not (found and text.isascii() and "\0" not in text and "\r" not in text):
        raise ValueError("no trees")
    header = _values(head.split("\n"), _HEADER)
    for key, value in {
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "label_index": "0",
        "max_feature_idx": str(n_features - 1),
        "objective": "binary sigmoid:1",
        "feature_names": " ".join(f"Column_{column}" for column in range(n_features)),
    }.items():
        if header[key] != value:
            raise ValueError(f"{key} is {header[key][:40]!r}, not {value!r}")
    ranges = header["feature_infos"].split(" ")
    if len(ranges) != n_features or not all(map(_RANGE.fullmatch, ranges)):
        raise ValueError("feature_infos are damaged")
    place = len(head) + 1
    for number, size in enumerate(_whole(header["tree_sizes"])):
        tree, place = text[place : place + max(size, 0)], place + max(size, 0)
        title, *lines = tree.removesuffix("\n\n\n").split("\n")
        try:
            if title != f"Tree={number}" or not tree.endswith("\n\n\n"):
                raise ValueError("it is not where it should be")
            _check_tree(_values(lines, _TREE), n_features)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None
    tail = _TAIL.fullmatch(text[place:])
    names = _PARAMETER.findall(tail[1]) if tail else []
    if not tail or len(set(names)) != len(names):
        raise ValueError("its end is damaged")


def _check_tree(tree: dict[str, str], n_features: int) -> None:
    """Every node and every leaf is reached exactly once, and looks at features that there are."""
    (n_leaves,) = _whole(tree["num_leaves"])
    if n_leaves < 1 or (tree["num_cat"], tree["is_linear"]) != ("0", "0"):
        raise ValueError("another kind of tree")
    _real(tree["shrinkage"])
    inner = n_leaves - 1
    lists: dict[str, list[int]] = {}
    for key, (whole, of_leaves) in _LISTS.items():
        if not inner and key != "leaf_value" and not tree[key]:
            continue  # a tree without a split leaves these empty
        found = _whole(tree[key]) if whole else _real(tree[key])
        if len(found) != inner + of_leaves:
            raise ValueError(f"{key} has {len(found)} numbers, not {inner + of_leaves}")
        lists[key] = [int(number) for number in found] if whole else []
    if not inner:
        return
    children = lists["left_child"] + lists["right_child"]
    forward = all(child < 0 or child > place % inner for place, child in enumerate(children))
    if not forward or sorted(children) != [*range(-n_leaves, 0), *range(1, inner)]:
        raise ValueError("its branches are tangled")
    if not all(0 <= feature < n_features for feature in lists["split_feature"]):
        raise ValueError("it looks at a feature that is not there")
    if not all(0 <= kind < 16 and kind % 2 == 0 for kind in lists["decision_type"]):
        raise ValueError("another kind of split")  # odd: by category


def _values(lines: list[str], keys: tuple[str, ...]) -> dict[str, str]:
    pairs = [line.partition("=") for line in lines]
    if tuple(key for key, _, _ in pairs) != keys:
        raise ValueError("its lines are not those of a model")
    return {key: value for key, _, value in pairs}


def _whole(text: str) -> list[int]:
    parts = text.split(" ")
    if not all(map(_WHOLE.fullmatch, parts)):
        raise ValueError(f"{text[:40]!r} are no whole numbers")
    return [int(part) for part in parts]


def _real(text: str) -> list[float]:
    parts = text.split(" ")
    if not all(_REAL.fullmatch(part) and math.isfinite(float(part)) for part in parts):
        raise ValueError(f"{text[:40]!r} are no numbers")
    return [float(part) for part in parts]
