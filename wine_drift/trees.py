"""LightGBM's text from elsewhere, read with suspicion.

LightGBM trusts such a text: a torn one, or one number too few in a list, ends the process or reads
foreign memory. What passes here it can load and score with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

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
_SETS = ("cat_boundaries", "cat_threshold")  # categories on the left: a bit for each
_END = ("is_linear", "shrinkage")
_WHOLE = re.compile(r"-?[0-9]{1,9}")
_REAL = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?")
_RANGE = re.compile(rf"none|\[{_REAL.pattern}:{_REAL.pattern}\]")
_CATEGORIES = re.compile(r"none|-?[0-9]{1,4}(:-?[0-9]{1,4})*")
_WORD = re.compile(r"[0-9]{1,10}")
# LightGBM writes them as JSON without escaping anything, and reads that again.
_PARAMETER = re.compile(r'\[(\w+): [^:\[\]"\\\x00-\x1f\x7f]*\]\n')
_TAIL = re.compile(
    r"end of trees\n\nfeature_importances:\n(?:Column_[0-9]+=[0-9.]+\n)*"
    rf"\nparameters:\n((?:{_PARAMETER.pattern})+)\nend of parameters\n\npandas_categorical:null\n"
)


def check_trees(text: str, n_features: int, n_categories: Sequence[int] | None = None) -> None:
    """Let only the text of a binary classifier on numbers and categories through.

    Parameters
    ----------
    text : str
        LightGBM's text format.
    n_features : int
        Columns that will be scored.
    n_categories : sequence of n_features int, optional
        How many categories are listed of each; 0 of numbers, which no split may take for such.

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
        "tree": "",
        "version": "v4",
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "label_index": "0",
        "max_feature_idx": str(n_features - 1),
        "objective": "binary sigmoid:1",
        "feature_names": " ".join(f"Column_{column}" for column in range(n_features)),
        "": "",
    }.items():
        if header[key] != value:
            raise ValueError(f"{key} is {header[key][:40]!r}, not {value!r}")
    ranges = header["feature_infos"].split(" ")
    listed = n_categories or [0] * n_features
    if len(ranges) != n_features or not all(
        (_CATEGORIES if n else _RANGE).fullmatch(each)
        for each, n in zip(ranges, listed, strict=True)
    ):
        raise ValueError("feature_infos are damaged")
    place = len(head) + 1
    for number, size in enumerate(_whole(header["tree_sizes"])):
        tree, place = text[place : place + max(size, 0)], place + max(size, 0)
        title, *lines = tree.removesuffix("\n\n\n").split("\n")
        try:
            if title != f"Tree={number}" or not tree.endswith("\n\n\n"):
                raise ValueError("it is not where it should be")
            is_plain = len(lines) > 1 and lines[1] == "num_cat=0"
            keys = ("num_leaves", "num_cat", *_LISTS, *(() if is_plain else _SETS), *_END)
            _check_tree(_values(lines, keys), listed)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None
    tail = _TAIL.fullmatch(text[place:])
    names = _PARAMETER.findall(tail[1]) if tail else []
    if not tail or len(set(names)) != len(names):
        raise ValueError("its end is damaged")


def _check_tree(tree: dict[str, str], n_categories: Sequence[int]) -> None:
    """Every node and every leaf is reached exactly once, and looks at features that there are."""
    (n_leaves,) = _whole(tree["num_leaves"])
    if n_leaves < 1 or tree["is_linear"] != "0":
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
    if not all(0 <= feature < len(n_categories) for feature in lists["split_feature"]):
        raise ValueError("it looks at a feature that is not there")
    kinds = list(zip(lists["split_feature"], lists["decision_type"], strict=True))
    if not all(0 <= kind < 16 and kind % 2 == bool(n_categories[j]) for j, kind in kinds):
        raise ValueError("another kind of split")  # odd: by category
    by_category = [kind % 2 == 1 for _, kind in kinds]
    sets = [
        (number, n_categories[j])
        for number, j, chosen in zip(
            tree["threshold"].split(" "), lists["split_feature"], by_category, strict=True
        )
        if chosen
    ]
    _check_sets(tree, sets)


def _check_sets(tree: dict[str, str], used: list[tuple[str, int]]) -> None:
    """Each split by category has a set of its own, with bits for what is listed and one more."""
    (n_sets,) = _whole(tree["num_cat"])
    if [number for number, _ in used] != [str(number) for number in range(n_sets)]:
        raise ValueError("its categories are tangled")
    if not n_sets:
        return
    ends, words = _whole(tree["cat_boundaries"]), tree["cat_threshold"].split(" ")
    rising = ends[0] == 0 and all(a < b for a, b in pairwise(ends))
    if len(ends) != n_sets + 1 or not rising or ends[-1] != len(words):
        raise ValueError("its categories are damaged")
    sizes = [end - start for start, end in pairwise(ends)]
    if any(size > n // 32 + 1 for size, (_, n) in zip(sizes, used, strict=True)):
        raise ValueError("it has categories that are not listed")
    if not all(_WORD.fullmatch(word) and int(word) < 1 << 32 for word in words):
        raise ValueError("its categories are no bits")


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
