"""Train a network: `faststyle train`, as a script for torchrun and accelerate launch."""

from faststyle.cli import run_train

if __name__ == "__main__":
    run_train()
