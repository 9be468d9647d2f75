"""Train a small CNN on scikit-learn's handwritten digits, and be killed at any moment without harm.

All that ties this to Cairn are the five calls on ``cairn``; without a server they keep everything in a
local folder, so ``python train.py`` works anywhere.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import cairn

BATCH = 32
HELD_OUT = 360  # of 1,797 images


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    cairn.init(config=vars(args), tags=["demo"])

    train_x, train_y, test_x, test_y = digits(args.data, args.seed)
    model = cnn(args.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    first_epoch, step = 0, 0
    if checkpoint := cairn.latest_checkpoint():
        state = torch.load(Path(checkpoint.path), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch, step = state["epoch"] + 1, checkpoint.step
        print(f"going on from the checkpoint at step {step}")

    for epoch in range(first_epoch, args.epochs):
        # The order depends on the epoch alone, so a restarted training sees the batches it would have seen.
        order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            step += 1
            loss = nn.functional.cross_entropy(model(train_x[batch]), train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cairn.log({"train.loss": loss.item()}, step=step)
            # A model this small learns faster than anybody can watch it, or kill it in time.
            time.sleep(args.pause)
        accuracy = evaluate(model, test_x, test_y)
        cairn.log({"val.accuracy": accuracy, "epoch": epoch}, step=step)
        print(f"epoch {epoch:2d}  step {step:4d}  loss {loss.item():.4f}  accuracy {accuracy:.4f}")
        if epoch % args.save_every == args.save_every - 1 or epoch == args.epochs - 1:
            cairn.save_checkpoint(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch},
                step=step,
                metrics={"val.accuracy": accuracy},
            )
    cairn.finish()


def digits(dataset: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images as (N, 1, 8, 8) floats in 0..1 and labels as (N,), for training and held out.

    ``dataset`` names a version that Cairn keeps (and then records as this run's input); without it
    scikit-learn's own copy is read.
    """
    if dataset:
        table = np.loadtxt(Path(cairn.use_artifact(dataset)) / "digits.csv.gz", delimiter=",")
        pixels, target = table[:, :-1], table[:, -1].astype(np.int64)
    else:
        pixels, target = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def cnn(width: int) -> nn.Module:
    """Two convolutions of ``width`` and ``2 * width`` channels, then one linear layer to ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 4, 10),
    )


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of held-out images that the model names right."""
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--save-every", type=int, default=4, help="epochs between two checkpoints")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two steps")
    parser.add_argument("--data", default="", help="a dataset that Cairn keeps, as in digits-data:latest")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
