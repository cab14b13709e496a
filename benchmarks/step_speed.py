"""10 epochs over 10,000 cached clips at batch 16, 527 classes, 512 dimensions.

    python benchmarks/step_speed.py

Random unit vectors stand in for the embeddings; the arithmetic is the same. About 2 minutes.
"""


from material import parse, print_table, quiet, seconds


def main() -> None:
    import torch

    from hyperbolic_clap.plumbing.config import TrainConfig
    from hyperbolic_clap.training.trainer import Trainer

    draw = torch.Generator().manual_seed(0)
    audio = torch.nn.functional.normalize(torch.randn(10_000, 512, generator=draw), dim=1)
    text = torch.nn.functional.normalize(torch.randn(527, 512, generator=draw), dim=1)
    targets = torch.rand(10_000, 527, generator=draw) < 0.005
    targets[:, 0] = True
    order = torch.arange(10_000)
    rows = []
    for similarity in ("hyperbolic", "cosine"):
        for dim in (512, 64):
            settings = TrainConfig(similarity=similarity, output_dim=dim)
            trainer = Trainer(settings, audio, targets, text, order[:8000], order[8000:])
            with quiet():
                time = seconds(lambda trainer=trainer: list(trainer.epochs()))
            rows.append([similarity, str(dim), f"{time:.1f} s", f"{time / 5000 * 1e3:.2f} ms"])
    print_table(["similarity", "dimensions", "10 epochs, 10,000 clips", "per step"], rows)


if __name__ == "__main__":
    parse(__doc__)
    main()
