"""`python -m faststyle.cli`: the same as `faststyle`."""

from faststyle.cli import app

if __name__ == "__main__":
    app()
