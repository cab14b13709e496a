"""The optimizer is torch.optim.Adam's fused one, to the bit, and reads and writes its states."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from hyperbolic_clap.training.adam import Adam


def parameters():
    draw = torch.Generator().manual_seed(0)
    shapes = ((30, 20), (20,), ())
    some = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    return [*some, torch.nn.Parameter(torch.ones((), dtype=torch.float64)), torch.nn.Parameter(torch.ones(2))]


def walk(optimizer, some, steps, seed):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in some[:4]:  # the last one never has a gradient
            parameter.grad = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] *= 0.9


@pytest.mark.parametrize("switched", [False, True])
def test_the_same_bits_as_torch_also_when_it_goes_on_from_a_state(switched):
    ours, theirs = parameters(), parameters()
    groups = [[{"params": p[:2], "lr": 1e-2}, {"params": p[2:], "lr": 1e-3}] for p in (ours, theirs)]
    mine, other = Adam(groups[0]), torch.optim.Adam(groups[1], fused=True)
    walk(mine, ours, 5, 1)
    walk(other, theirs, 5, 1)
    if switched:
        states = mine.state_dict(), other.state_dict()
        mine.load_state_dict(states[1])
        other.load_state_dict(states[0])
    walk(mine, ours, 5, 2)
    walk(other, theirs, 5, 2)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    a, b = mine.state_dict(), other.state_dict()
    assert repr(a) == repr(b) and list(a["state"]) == [0, 1, 2, 3]


def test_training_imports_neither_the_compiler_nor_what_only_metrics_need():
    code = "import sys\nfrom hyperbolic_clap.embedding import pipeline\n"
    code += "from hyperbolic_clap.plumbing.config import TrainConfig\n"
    code += "from hyperbolic_clap.training import run_folder, split, trainer\n"
    code += "import torch; t = torch.eye(4); every = torch.arange(4); settings = TrainConfig(output_dim=4)\n"
    code += "list(trainer.Trainer(settings, t, t > 0, t, every[:2], every[2:]).epochs())\n"
    code += "import numpy as np, pyarrow as pa; from hyperbolic_clap.reading.arrays import arrow, arrow_texts\n"
    code += "from hyperbolic_clap.reading.columns import read_columns\n"
    code += "from hyperbolic_clap.reading.labels import ClassList\n"
    code += "lists = pa.ListArray.from_arrays(arrow(np.int32([0, 1, 3])), arrow_texts(['x', 'y', 'x']))\n"
    code += "columns = {'video_id': arrow_texts(['a', 'b']), 'human_labels': lists, 'labels': lists}\n"
    code += "table = {name: pa.chunked_array([column]) for name, column in columns.items()}\n"
    code += "rows = read_columns(table, ClassList(['x', 'y']), 'stem', 0, 2)\n"
    code += "split.split_by_video(rows.videos, 0.5, 0), rows.bits, rows.label_counts\n"
    # Of scipy the sparse sums are loaded, after the first epoch: they rank the validation clips.
    code += "slow = {'pyarrow.compute', 'torch._dynamo', 'sympy', 'transformers', 'sklearn', 'scipy.stats', 'pandas'}\n"
    code += "print(sorted((slow | {'librosa', 'modelscope'}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
