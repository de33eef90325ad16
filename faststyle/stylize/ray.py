"""A collection on a cluster of Ray: Ray Data gives the items to actors, each with one network.

Each actor reads, paints and writes whole files, on storage that all nodes see. When an actor or its
node dies, Ray gives its items to another one, which keeps the files that are there.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from faststyle.errors import DeviceError, FaststyleError, OutputError
from faststyle.extras import require
from faststyle.stylize.batch import Job, Notes, Report
from faststyle.stylize.blend import parse_style
from faststyle.stylize.collection import Item, Task
from faststyle.stylize.processes import ALONE, ended_by_sigterm
from faststyle.stylize.report import Record
from faststyle.stylize.shards import HubShard, ParquetShard
from faststyle.stylize.stylizer import Announce

LOCAL = "local"
AT_ONCE = 8  # pictures that an actor is given at once; of shards it is one
CONNECT_SECONDS = 10
RETRIES = 3  # of items whose worker died; one that kills each worker ends the run
BLOCKS = 4096  # parts that Ray Data cuts a collection into, at most
LOADED = itertools.count(1)  # networks that were loaded in this process


class Actor:
    """Paints items of a collection. Ray makes one for each worker; it loads its network once."""

    def __init__(self, task: Task, items: Sequence[Item]) -> None:
        self.task = task
        self.items = items
        self.lines: list[str] = []  # about the engine, for the person at the command line
        self.stylizer = task.load(self.lines.append)
        self.loaded = next(LOADED)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the items with the numbers `id`; return a row of JSON for each."""
        return {"result": [self._run(int(number)) for number in batch["id"]]}

    def _run(self, number: int) -> str:
        report = Report()
        notes = Notes()
        error = ""
        try:
            self.task.run(self.stylizer, self.items[number], report, notes)
        except FaststyleError as caught:  # such as a full disk, which ends the whole run
            error = str(caught)
        told = {
            "number": number,
            "report": asdict(report),
            "notes": notes.pairs(),
            "error": error,
            "engine": self.stylizer.describe(),
            "worker": _worker_name(),
            "networks_loaded": self.loaded,
            "lines": self.lines,
        }
        return json.dumps(told)


def run_on_ray(
    address: str,
    task: Task,
    items: Sequence[Item],
    record: Record,
    done: Callable[[Item], None] = lambda item: None,
    announce: Announce = lambda line: None,
) -> None:
    """Do all items on the cluster at `address`, and record what became of them, and the workers.

    "local" starts a cluster on this machine, for this run only. Raises: DeviceError where there is
    no cluster; OutputError for a full disk.
    """
    ray = require("ray.data", "ray", extra="ray")
    if "WORLD_SIZE" in os.environ:
        raise DeviceError("`ray`: Ray starts its own processes; run it without torchrun")
    _connect(ray, address)
    try:
        with ended_by_sigterm():  # Ray has put a handler of its own there
            task = with_paths(task.for_items(items, ALONE))
            items = [_absolute(item) for item in items]
            _collect(_start(ray, task, items), items, record, done, announce)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise DeviceError(f"Ray: {lines[-1].strip()}; the same command goes on there") from error
    finally:
        ray.shutdown()


def _start(ray: Any, task: Task, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    """Return the results of all items on the cluster that is connected, as they come."""
    task, actors, resources = _fit(ray, task, len(items))
    at_once = AT_ONCE if isinstance(items[0], Job) else 1
    at_once = max(1, min(at_once, len(items) // (2 * actors)))
    blocks = min(BLOCKS, -(-len(items) // at_once))
    # Made here, not by tasks of Ray, which would need a core that the actors leave free.
    numbers = ray.data.from_items(
        [{"id": i} for i in range(len(items))], override_num_blocks=blocks
    )
    with warnings.catch_warnings():  # the number of retries has no name of its own yet
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        results = numbers.map_batches(
            Actor,
            fn_constructor_args=(task, list(items)),
            batch_size=at_once,
            compute=ray.data.ActorPoolStrategy(size=actors),
            max_task_retries=RETRIES,
            **resources,
        )
    return (json.loads(row["result"]) for row in results.iter_rows())


def _collect(
    results: Iterator[dict[str, Any]],
    items: Sequence[Item],
    record: Record,
    done: Callable[[Item], None],
    announce: Announce,
) -> None:
    """Record the results of all items. Raises: OutputError."""
    workers: dict[str, dict[str, Any]] = {}
    notes = Notes()
    announced: set[str] = set()
    for told in results:
        for line in set(told["lines"]) - announced:  # each actor says the same
            announce(line)
            announced.add(line)
        if told["error"]:
            raise OutputError(told["error"])
        if not workers:
            record.loaded(told["engine"])  # and the cluster is up
        found = told["report"]
        found["failed"] = [(name, reason) for name, reason in found["failed"]]
        record.report.add(Report(**found))
        record.engine = told["engine"]
        name = told["worker"]
        worker = workers.setdefault(name, {"worker": name, "items": 0})
        worker["items"] += 1
        worker["networks_loaded"] = told["networks_loaded"]
        record.workers = list(workers.values())
        for note, picture in told["notes"]:
            notes.add([note], picture)
        done(items[told["number"]])
    record.report.notes += notes.lines()


def _fit(ray: Any, task: Task, items: int) -> tuple[Task, int, dict[str, Any]]:
    """Return the task, the number of actors, and what each of them takes of the cluster.

    That is one GPU each where there are any, else `threads` cores each, which are one by default:
    several networks with one thread each paint more than one network with several threads.
    """
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    cpus = int(there.get("CPU", 0))
    threads = task.engine.threads
    if gpus and task.engine.device in ("auto", "cuda"):
        return task, max(1, min(gpus, items)), {"num_gpus": 1}
    threads = min(threads or 1, max(1, cpus))
    task = replace(task, engine=replace(task.engine, threads=threads))
    return task, max(1, min(cpus // threads, items)), {"num_cpus": threads}


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one. Raises: DeviceError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a program of ours reports no usage
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of Ray Data's own actors
    try:
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        own = {"include_dashboard": False} if address == LOCAL else {}
        ray.init(address, logging_level="error", log_to_driver=False, **own)
    except Exception as error:  # a zoo: no connection, another version, a machine too busy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeviceError(
            f"`ray` {address}: no cluster to be reached ({reason}); start one with: "
            f"ray start --head, or use `ray` {LOCAL}"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the last word is ours


def _worker_name() -> str:
    return f"{os.uname().nodename}, process {os.getpid()}"


def _absolute(item: Item) -> Item:
    """Return an item with absolute paths: a worker runs in another folder."""
    target = item.target.absolute() if item.target else None
    if isinstance(item, Job):
        return Job(item.source.absolute() if item.source else None, target)
    assert target is not None
    if isinstance(item, ParquetShard):
        return replace(item, name=str(Path(item.name).absolute()), target=target)
    if isinstance(item, HubShard) and Path(item.path).exists():
        return replace(item, path=str(Path(item.path).absolute()), target=target)
    return replace(item, target=target)


def with_paths(task: Task) -> Task:
    """Return the task with the paths of its styles, which a worker in another folder finds too."""
    parsed = [parse_style(style) for style in task.styles]
    return replace(task, styles=tuple(f"{path.resolve()}:{weight}" for path, weight in parsed))
