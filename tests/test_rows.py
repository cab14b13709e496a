"""Rows as columns say what a list of clips would."""

import numpy as np
import pytest
import torch

from hyperbolic_clap.embedding.packed_targets import PackedTargets
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows
from hyperbolic_clap.training.split import fingerprint, split_by_video

CLASSES = ClassList(["Music", "Speech", "Dog, barking", "Cat"])
HUMAN = [["Speech", "Music"], [], ["cat", "nothing"], ["Dog, barking", "CAT", "Cat"], ["unknown"]]
IDS = ["a", "b", "a", "\udcff#3", "\N{SNOWMAN}"]


@pytest.fixture
def rows():
    return Rows.of(CLASSES, [3, 5, 7, 8, 9], IDS, HUMAN, [["/m/1"], [], [], [], []])


def test_columns(rows):
    assert len(rows) == 5 and rows.sample_ids.tolist() == [3, 5, 7, 8, 9]
    assert rows.video_ids == IDS and rows.videos.tolist() == [0, 1, 0, 2, 3]
    assert rows.human_labels.to_pylist() == HUMAN and rows.machine_labels[0].as_py() == ["/m/1"]
    assert [rows.positions(i).tolist() for i in range(5)] == [CLASSES.match(labels) for labels in HUMAN]
    assert rows.match_counts.tolist() == [2, 0, 1, 2, 0] and rows.label_counts.tolist() == [2, 0, 2, 3, 1]
    assert rows.targets.tolist() == [[j in CLASSES.match(labels) for j in range(4)] for labels in HUMAN]


def test_taking_and_joining(rows):
    some = rows.take(np.array([True, False, False, True, False]))
    assert some.video_ids == [IDS[0], IDS[3]] and some.positions(1).tolist() == [2, 3]
    again = Rows.join(CLASSES, [some, rows.take(np.array([4, 1]))])
    assert again.sample_ids.tolist() == [3, 8, 9, 5] and again.targets.tolist() == rows.targets[[0, 3, 4, 1]].tolist()
    nothing = Rows.join(CLASSES, [])
    assert len(nothing) == 0 and nothing.videos.tolist() == [] and nothing.targets.shape == (0, 4)


@pytest.mark.parametrize("seed", range(5))
def test_the_split_takes_whole_videos_until_the_share_is_reached(seed):
    draw = np.random.default_rng(seed)
    for videos in (draw.integers(0, 6, 30), np.array([0, 1]), np.repeat([0, 1, 2], [50, 1, 1])):
        for ratio in (0.01, 0.5, 0.8, 0.99):
            train, validation = (part.tolist() for part in split_by_video(videos, ratio, seed))
            assert sorted(train + validation) == list(range(len(videos))) and train and validation
            assert not {*videos[train]} & {*videos[validation]}
            most = max(np.bincount(videos))
            assert abs(len(train) - ratio * len(videos)) <= most
    with pytest.raises(UserError, match="two videos are needed"):
        split_by_video(["a", "a"], 0.5, seed)


@pytest.mark.parametrize("width", [1, 8, 13, 527])
def test_truth_in_bits_is_the_truth(width):
    rng = np.random.default_rng(width)
    dense = torch.from_numpy(rng.random((50, width)) < 0.3)
    classes = ClassList([f"class {i}" for i in range(width)])
    names = [[classes.names[i] for i in row.nonzero()] for row in dense]
    rows = Rows.of(classes, range(50), ["v"] * 50, names, [[]] * 50)
    truth = PackedTargets(torch.from_numpy(rows.bits), width)
    for some in (torch.tensor([3, 3, 49, 0]), torch.arange(50), slice(2, 7), slice(0, 0)):
        assert torch.equal(truth[some], dense[some]) and truth[some].is_contiguous()
    assert torch.equal(torch.cat([*truth.split(7)]), dense) and len(truth) == 50
    assert fingerprint(truth) == fingerprint(dense) and np.array_equal(rows.targets, dense.numpy())
