"""A collection of pictures or of parquet shards: by one process, by several, or on Ray.

batch.py does one picture and dataset.py one shard. Here is what they share: how all are painted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faststyle.engines.options import AUTO, EngineOptions
from faststyle.errors import CheckpointError
from faststyle.files import sha256
from faststyle.stylize.batch import MANY, Job, Notes, Report, run_job
from faststyle.stylize.blend import parse_style
from faststyle.stylize.dataset import run_shard
from faststyle.stylize.processes import ALONE, Process
from faststyle.stylize.shards import Shard
from faststyle.stylize.stylizer import PLAIN, Announce, Look, Stylizer, TileProgress

Item = Job | Shard


@dataclass(frozen=True)
class Task:
    """How all items of a collection are painted. `format` is that of pictures in data sets.

    With `keep`, outputs that are there stay. `refine` are the seconds for which each picture is
    refined, or None; `painting` and `vgg_weights` are files for that (refine.py). For the rest see
    `Stylizer.blend` and `run_job`.
    """

    styles: tuple[str, ...]
    engine: EngineOptions = AUTO
    tile: int | None = None
    size: int | None = None
    look: Look = PLAIN
    keep: bool = True
    allow_huge: bool = False
    keep_metadata: bool = False
    format: str | None = None
    refine: float | None = None
    painting: Path | None = None
    vgg_weights: Path | None = None

    def load(
        self,
        announce: Announce = lambda line: None,
        progress: TileProgress = lambda done, of: None,
        refining: Callable[[float, float], None] = lambda spent, of: None,
    ) -> Stylizer:
        """Return the stylizer, which does all items of a process: it is loaded once.

        `refining` is told of the seconds that a picture is refined. Raises: the errors of
        `Stylizer.blend` and of `Refiner.open`, CheckpointError for several styles to refine.
        """
        refiner = None
        options = self.engine
        if self.refine is not None:
            from faststyle.stylize.refine import Refiner  # it imports training/: seconds

            if len(self.styles) > 1:
                raise CheckpointError(
                    "`refine` takes one `style`: several have no objective in common"
                )
            style, _ = parse_style(self.styles[0])
            refiner = Refiner.open(
                style, self.painting, self.refine, self.engine, self.vgg_weights, refining
            )
            options = refiner.options
        stylizer = Stylizer.blend(
            self.styles, options, tile=self.tile, progress=progress, announce=announce
        )
        stylizer.refiner = refiner
        return stylizer

    def run(self, stylizer: Stylizer, item: Item, report: Report, notes: Notes) -> None:
        """Do one item. Raises: OutputError and Interrupted, which end the run."""
        if isinstance(item, Job):
            run_job(
                stylizer,
                item,
                report,
                notes,
                self.keep,
                self.size,
                self.look,
                self.allow_huge,
                self.keep_metadata,
            )
        else:
            run_shard(
                stylizer,
                item,
                report,
                notes,
                self.keep,
                self.size,
                self.look,
                self.keep_metadata,
                format=self.format,
                settings=f"{self.settings()} {item.column}",
            )

    def settings(self) -> str:
        """Return a text that changes with the pictures that are painted."""
        weighted = [(sha256(path), weight) for path, weight in map(parse_style, self.styles)]
        precision = self.engine.precision
        return f"{weighted} {self.look} {self.size} {precision} {self.format} {self.keep_metadata}"

    def for_items(self, items: Sequence[Item], process: Process) -> Task:
        """Return the task with the engine that suits the share of a process."""
        many = len(process.share(items)) >= MANY or not all(isinstance(i, Job) for i in items)
        threads = process.threads(self.engine.threads)
        return replace(self, engine=replace(self.engine, convert=many, threads=threads))


def run_items(
    task: Task,
    stylizer: Stylizer,
    items: Sequence[Item],
    report: Report,
    process: Process = ALONE,
    done: Callable[[Item], None] = lambda item: None,
) -> None:
    """Do the items of this process, and add what became of them to `report`.

    It goes on past an item that fails. `report` is true whenever the run ends. Raises: OutputError
    for a full disk, and Interrupted; both end the run at once.
    """
    notes = Notes()
    try:
        for item in process.share(items):
            task.run(stylizer, item, report, notes)
            done(item)
    finally:
        report.notes += notes.lines()
