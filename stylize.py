"""Stylize photos with a trained network: `faststyle stylize`, as a script."""

from faststyle.cli import run_stylize

if __name__ == "__main__":
    run_stylize()
