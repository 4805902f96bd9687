from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ftd.worker.train.compute.tree import Tree, grow
from ftd.worker.train.data import Row


def row(*ids: int, weights: list[float] | None = None) -> Row:
    counted = weights if weights is not None else [0.0] + [1.0] * (len(ids) - 1)
    return Row(ids=np.array(ids, np.int32), weights=np.array(counted, np.float32))


# Few tokens, so that rows often begin alike; weights that add up without rounding.
ROWS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=9
    ).map(lambda pairs: row(*(p[0] for p in pairs), weights=[p[1] for p in pairs])),
    min_size=1,
    max_size=8,
)


def paths(tree: Tree) -> list[tuple[int, ...]]:
    """Of each token, the ids from the first of its row to its own."""
    return [
        (*tree.ids[tree.path(token)].tolist(), int(tree.ids[token])) for token in range(len(tree))
    ]


def test_the_example_of_the_docstring() -> None:
    a, b, c, d, e, x = range(6)
    tree = grow([row(a, b, c), row(a, b, d, e), row(x)])
    assert tree.ids.tolist() == [a, b, c, d, e, x]
    assert tree.depth.tolist() == [0, 1, 2, 2, 3, 0]
    assert tree.parent.tolist() == [-1, 0, 1, 1, 3, -1]
    assert tree.end.tolist() == [5, 5, 3, 5, 5, 6]
    assert tree.source.tolist() == [0, 1, 1, 3]
    assert tree.target.tolist() == [b, c, d, e]
    assert tree.weight.tolist() == [2, 1, 1, 1]


def test_a_weight_on_the_first_token_is_of_no_use() -> None:
    assert grow([row(5, 6, weights=[1, 1])]).target.tolist() == [6]


@given(ROWS)
def test_every_prefix_is_there_once(rows: list[Row]) -> None:
    tree = grow(rows)
    prefixes = {tuple(row.ids[: end + 1].tolist()) for row in rows for end in range(len(row.ids))}
    assert sorted(paths(tree)) == sorted(prefixes)
    assert tree.depth.tolist() == [len(path) - 1 for path in paths(tree)]


@given(ROWS)
def test_parents_come_before_their_children_and_what_is_below_is_in_one_piece(
    rows: list[Row],
) -> None:
    tree = grow(rows)
    for token in range(len(tree)):
        above = tree.path(token).tolist()
        assert tree.parent[token] == (above[-1] if above else -1)
        below = [other for other in range(len(tree)) if token in tree.path(other)]
        assert below == list(range(token + 1, tree.end[token]))


@given(ROWS)
def test_predictions_count_as_often_as_in_the_rows(rows: list[Row]) -> None:
    tree = grow(rows)
    expected: Counter[tuple[tuple[int, ...], int]] = Counter()
    for each in rows:
        for at in range(1, len(each.ids)):
            if weight := float(each.weights[at]):
                key = (tuple(each.ids[:at].tolist()), int(each.ids[at]))
                expected[key] += weight  # type: ignore[assignment]
    known = paths(tree)
    found = {
        (known[source], int(target)): float(weight)
        for source, target, weight in zip(tree.source, tree.target, tree.weight, strict=True)
    }
    assert found == expected
    assert len(found) == len(tree.source)
    assert tree.source.tolist() == sorted(tree.source)


@given(ROWS, st.randoms())
def test_the_order_of_rows_does_not_matter(rows: list[Row], dice: object) -> None:
    shuffled = list(rows)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = grow(rows), grow(shuffled)
    for name in ("ids", "depth", "parent", "end", "source", "target", "weight"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()
