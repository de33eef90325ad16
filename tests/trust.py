"""Faults, each tried by doing it: kill -9, SIGTERM, a full disk, damaged files, dying processes.

    scripts/trust --times 50                  # all of them: some hours
    scripts/trust --times 5 --only training   # those whose name holds a word

Each fault prints a row of the table in docs/trust.md. The exit code is 1 when something was lost
that must not be. tests/test_trust.py tries each fault once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import draw, write_random_network, write_tiny_vgg
from hub import NAME, draw_faults, open_hub

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "faststyle.cli"]
TINY = {
    "loss.content_layers": "gatys",  # 32 pixels are too few for coarser scales
    "loss.style_layers": "gatys",
    "painting_size": 48,
    "network.width": 4,
    "network.blocks": 1,
    "workers": 1,
    "log_every": 1,
    "preview_every": 1000,
    "precision": "float32",
}
STEPS = 150
PICTURES = 8
SOON = 10.0  # seconds in which SIGTERM must have ended a program
LONG = 240.0  # seconds after which a program counts as hanging


class Lost(Exception):
    """Something was lost that must not be."""


@dataclass(frozen=True)
class Outcome:
    """How often a fault was tried, and what was lost each time, in words."""

    tried: int
    lost: str


@dataclass(frozen=True)
class Lab:
    """A folder with a painting, paintings, photos, a clip, a network and a tiny VGG."""

    folder: Path
    rng: random.Random

    def place(self, name: str) -> Path:
        """Return a new, empty folder to run a program in."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def train(self, *more: str, **settings: object) -> list[str]:
        """Return the command that trains a tiny network in a second or two."""
        pairs = {**TINY, **settings}
        sets = [part for k, v in pairs.items() for part in ("--set", f"{k}={v}")]
        files = ["--painting", str(self.folder / "painting.png")]
        files += ["--vgg-weights", str(self.folder / "vgg.safetensors")]
        sizes = ["--image-size", "32", "--batch-size", "2", "--device", "cpu", "--threads", "1"]
        recipe = ["--recipe", "smoke", "--name", "run", "--steps", str(STEPS)]
        return [*PROGRAM, "train", *files, *recipe, *sizes, *sets, *more]

    def stylize(self, source: str, target: str, *more: str) -> list[str]:
        """Return the command that stylizes a file or folder of the lab in torch."""
        style = ["--style", str(self.folder / "dots.safetensors"), "--engine", "torch"]
        plain = ["--device", "cpu", "--precision", "float32", "--threads", "1"]
        return [*PROGRAM, "stylize", str(self.folder / source), "-o", target, *style, *plain, *more]


@contextmanager
def open_lab(seed: int) -> Iterator[Lab]:
    """Yield a lab in a temporary folder."""
    from faststyle.bench.videos import write_clip

    with tempfile.TemporaryDirectory(prefix="trust-") as name:
        folder = Path(name)
        draw(1, 80, 96).save(folder / "painting.png")
        for sub, count, side in (("paintings", 3, 80), ("photos", PICTURES, 300)):
            (folder / sub).mkdir()
            for i in range(count):
                draw(10 + i, side, side + 16).save(folder / sub / f"{i}.png")
        write_tiny_vgg(folder / "vgg.safetensors")
        write_random_network(folder / "dots.safetensors")
        write_clip(folder / "clip.mp4", 96, 128, 20.0)
        yield Lab(folder, random.Random(seed))


def run(command: Sequence[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises: Lost when it hangs, or prints a traceback."""
    process = start(command, folder, **more)
    errors = finish(process)
    return subprocess.CompletedProcess(command, process.returncode, "", errors)


def finish(process: subprocess.Popen[str]) -> str:
    """Return the errors of a program when it has ended. Raises: Lost as `run` does."""
    try:
        _, errors = process.communicate(timeout=LONG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Lost(f"hangs: {process.args}") from None
    if "Traceback" in errors:
        raise Lost(f"a traceback: {errors[-2000:]}")
    return errors


def must(command: Sequence[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed. Raises: Lost."""
    done = run(command, folder, **more)
    if done.returncode != 0:
        raise Lost(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    return done


def start(command: Sequence[str], folder: Path, **more: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def environment(**more: str) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, **more}


def digest(*paths: Path) -> str:
    """Return one hash of the pixels, frames or weights of files; metadata holds versions, dates."""
    found = hashlib.sha256()
    for path in paths:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            for name, value in sorted(load_file(path).items()):
                found.update(name.encode() + value.numpy().tobytes())
        elif path.suffix == ".mp4":
            import av

            with av.open(str(path)) as file:
                for frame in file.decode(video=0):
                    found.update(
                        str(frame.pts).encode() + frame.to_ndarray(format="rgb24").tobytes()
                    )
        else:
            found.update(path.read_bytes())
    return found.hexdigest()


def kill_until_done(
    lab: Lab, times: int, name: str, first: Sequence[str], again: Sequence[str], outputs: str
) -> int:
    """Kill a command at random moments until it has been killed `times` times; compare its end.

    `first` begins, `again` goes on. Each chain of kills ends in a run to the end, whose `outputs`
    must be those of a run that nothing disturbed. Returns the number of chains.
    """
    whole = lab.place(f"{name}-whole")
    began = time.monotonic()
    must(first, whole)
    takes = time.monotonic() - began
    expected = digest(*_visible(whole, outputs))
    kills = 0
    chains = 0
    while kills < times:
        chains += 1
        folder = lab.place(f"{name}-{chains}")
        command = first
        while kills < times:
            process = start(command, folder)
            try:
                process.communicate(timeout=lab.rng.uniform(0.3, 1.0) * takes)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
            else:
                break  # it came to its end
            command = again if begun(folder) else first
        # What is at the final name is whole, however often the program was killed.
        done = run(again if begun(folder) else first, folder)
        # It may have been killed after its last file was written.
        if done.returncode != 0 and "is there already" not in done.stderr:
            raise Lost(f"cannot go on: {done.stderr[-2000:]}")
        if digest(*_visible(folder, outputs)) != expected:
            raise Lost(f"{name}: another result after kills, in {folder}")
    return chains


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Return the files that a pattern means. A kill may leave a temporary file, which is hidden."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def begun(folder: Path) -> bool:
    """Return whether there is something to resume."""
    states = list(folder.glob("outputs/*/state/step-*"))
    return bool(states or list(folder.glob("*.parts/manifest.json")))


def kill_training(lab: Lab, times: int) -> Outcome:
    command = lab.train(state_every=10)
    kill_until_done(
        lab, times, "training", command, [*command, "--resume"], "checkpoints/*.safetensors"
    )
    return Outcome(times, "the steps since the last state; the end has the same bits")


def kill_while_a_state_is_written(lab: Lab, times: int) -> Outcome:
    command = lab.train(state_every=1)
    kill_until_done(
        lab, times, "state", command, [*command, "--resume"], "checkpoints/*.safetensors"
    )
    return Outcome(times, "the step in flight; the end has the same bits")


def kill_pictures(lab: Lab, times: int) -> Outcome:
    command = lab.stylize("photos", "out")
    kill_until_done(lab, times, "pictures", command, command, "out/*.png")
    return Outcome(times, "the picture in flight; a hidden temporary file may be left")


def kill_a_video(lab: Lab, times: int) -> Outcome:
    command = lab.stylize("clip.mp4", "out.mp4")
    kill_until_done(lab, times, "video", command, [*command, "--resume"], "out.mp4")
    return Outcome(times, "the segment in flight (5 s of the clip); the same frames at the end")


def kill_a_collection(lab: Lab, times: int) -> Outcome:
    command = lab.train("--painting", str(lab.folder / "paintings"), state_every=10)
    kill_until_done(
        lab, times, "collection", command, [*command, "--resume"], "checkpoints/*.safetensors"
    )
    return Outcome(times, "the steps since the last state; the end has the same bits")


def terminate(lab: Lab, times: int) -> Outcome:
    """SIGTERM ends each program within ten seconds, with exit code 143."""
    slowest = 0.0
    commands = {
        "training": lab.train("--steps", "100000", "--set", "state_every=100000"),
        "pictures": lab.stylize("photos", "out"),
        "video": lab.stylize("clip.mp4", "out.mp4"),
    }
    for number in range(times):
        for name, command in commands.items():
            folder = lab.place(f"term-{name}-{number}")
            process = start(command, folder)
            time.sleep(lab.rng.uniform(4, 8))
            if process.poll() is not None:
                process.communicate()
                continue
            began = time.monotonic()
            os.killpg(process.pid, signal.SIGTERM)
            finish(process)
            slowest = max(slowest, time.monotonic() - began)
            if slowest > SOON:
                raise Lost(f"{name}: {slowest:.0f} s after SIGTERM")
    return Outcome(3 * times, f"nothing; the slowest end took {slowest:.1f} s")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Mount a file system of a size in memory; for root only."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill_the_disk(lab: Lab, times: int) -> Outcome:
    """The disk is full before, during or after training; then it is enlarged."""
    command = lab.train(state_every=10)
    whole = lab.place("disk-whole")
    must(command, whole)
    expected = digest(whole / "checkpoints/run.safetensors")
    took = sum(f.stat().st_size for f in whole.rglob("*") if f.is_file())
    for number in range(times):
        size = int(lab.rng.uniform(0.05, 1.0) * took)
        folder = lab.place(f"disk-{number}")
        with small_disk(folder, f"{max(4, size // 1024)}k"):
            done = run(command, folder)
            if done.returncode == 1 and "free some space" not in done.stderr:
                raise Lost(f"another error: {done.stderr[-1000:]}")
            if done.returncode == 1:
                subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
                must([*command, "--resume"] if begun(folder) else command, folder)
            if digest(folder / "checkpoints/run.safetensors") != expected:
                raise Lost("another result after a full disk")
    return Outcome(times, "the steps since the last state; the end has the same bits")


def forbid_writing(lab: Lab, times: int) -> Outcome:
    """A folder that may only be read: said in one line, at once, by every command."""
    folder = lab.place("read-only")
    (folder / "out").mkdir()
    commands = [lab.train(), lab.stylize("photos", "out"), lab.stylize("clip.mp4", "out.mp4")]
    commands += [lab.stylize("photos/1.png", "out.png")]
    with small_disk(folder, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for _ in range(times):
            for command in commands:
                done = run(command, folder)
                if done.returncode != 1 or "cannot write" not in done.stderr:
                    raise Lost(f"{command}: {done.returncode}, {done.stderr[-1000:]}")
    return Outcome(times * len(commands), "nothing: one line")


def children(pid: int) -> list[int]:
    """Return the processes below one, its nearest first."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    """Read the progress of a run until it has shown a step. Raises: Lost."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            return
    raise Lost(f"ended before step {step}")


def kill_the_loader(lab: Lab, times: int) -> Outcome:
    """The process that loads photos dies: the run stops with one line, and can go on."""
    command = lab.train(state_every=10)
    whole = lab.place("loader-whole")
    must(command, whole)
    expected = digest(whole / "checkpoints/run.safetensors")
    for number in range(times):
        folder = lab.place(f"loader-{number}")
        process = start([*command], folder)
        wait_for_step(process, lab.rng.randint(12, 60))
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        errors = finish(process)
        if process.returncode and "go on with the same command" not in errors:
            raise Lost(f"nothing is said when its loader has died: {errors[-500:]}")
        if process.returncode:
            must([*command, "--resume"], folder)
        if digest(folder / "checkpoints/run.safetensors") != expected:
            raise Lost("another result after its loader died")
    return Outcome(times, "the steps since the last state; the end has the same bits")


def kill_one_of_two(lab: Lab, times: int) -> Outcome:
    """One of two processes dies: the other ends with an error, and both can go on."""
    slowest = 0.0
    for number in range(times):
        folder = lab.place(f"two-{number}")
        port = str(29500 + lab.rng.randint(0, 3000))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        launcher += ["--master_port", port, str(ROOT / "train.py")]
        command = [*launcher, *lab.train(state_every=10)[len(PROGRAM) + 1 :]]
        process = start(command, folder)
        wait_for_step(process, lab.rng.randint(12, 60))
        direct = [p for p in children(process.pid) if parent(p) == process.pid]
        began = time.monotonic()
        os.kill(lab.rng.choice(direct), signal.SIGKILL)
        try:
            finish(process)
        except Lost as error:  # torchrun, which notices, prints a traceback of its own
            if "traceback" not in str(error):
                raise
        slowest = max(slowest, time.monotonic() - began)
        if process.returncode == 0:
            raise Lost("exit code 0 when one process has died")
        must([*command, "--resume"], folder)
    return Outcome(times, f"the steps since the last state; it ended after {slowest:.0f} s at most")


def parent(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).ppid())


def break_the_hub(lab: Lab, times: int) -> Outcome:
    """The server of photos answers 500, cuts off or stalls; some times it stays broken."""
    command = lab.train("--photos", f"hf:{NAME}:train:image", state_every=10)
    with open_hub() as hub:
        # Each run asks anew: what an earlier one read is not kept.
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        whole = lab.place("hub-whole")
        must(command, whole, HF_HOME=str(whole), **online)
        expected = digest(whole / "checkpoints/run.safetensors")
        for number in range(times):
            folder = lab.place(f"hub-{number}")
            broken = number % 3 == 0
            process = start(command, folder, HF_HOME=str(folder), **online)
            time.sleep(lab.rng.uniform(0, 6))
            hub.faults = ["error"] * 1000 if broken else draw_faults(lab.rng)
            errors = finish(process)
            hub.faults = []
            if process.returncode and "`photos`" in errors:
                raise Lost(f"a field where a flag should be: {errors[-500:]}")
            if process.returncode and "--photos" not in errors:
                raise Lost(f"another error: {errors[-1000:]}")
            if process.returncode:
                resume = ["--resume"] if begun(folder) else []
                must([*command, *resume], folder, HF_HOME=str(folder), **online)
            if digest(folder / "checkpoints/run.safetensors") != expected:
                raise Lost("another result after the server failed")
        failed = hub.failed
    return Outcome(times, f"nothing of {failed} answers that failed; the end has the same bits")


def damage_states(lab: Lab, times: int) -> Outcome:
    """The newest state is cut, changed or swapped: the one before it is used."""
    command = lab.train(state_every=10)
    whole = lab.place("damage-whole")
    must(command, whole)
    expected = digest(whole / "checkpoints/run.safetensors")
    stopped = lab.place("damage-stopped")
    process = start(command, stopped)
    wait_for_step(process, 45)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for number in range(times):
        folder = lab.place(f"damage-{number}")
        shutil.copytree(stopped, folder, dirs_exist_ok=True)
        states = sorted(folder.glob("outputs/run/state/step-*"))
        damage(lab.rng.choice([f for f in states[-1].iterdir() if f.is_file()]), lab.rng)
        done = must([*command, "--resume"], folder)
        if f"resumed after step {int(states[-2].name.removeprefix('step-'))}" not in done.stderr:
            raise Lost(f"went on from a damaged state: {done.stderr[:1000]}")
        if digest(folder / "checkpoints/run.safetensors") != expected:
            raise Lost("another result from the state before")
    return Outcome(times, "the steps since the state before; the end has the same bits")


def damage_checkpoints(lab: Lab, times: int) -> Outcome:
    """A checkpoint is cut, or some bytes of it are changed: one line, and no picture."""
    folder = lab.place("checkpoint")
    for number in range(times):
        copy = folder / f"{number}.safetensors"
        shutil.copy(lab.folder / "dots.safetensors", copy)
        damage(copy, lab.rng)
        command = lab.stylize("photos/1.png", "out.png")
        command[command.index("--style") + 1] = str(copy)
        done = run(command, folder)
        if done.returncode != 1 or (folder / "out.png").exists():
            raise Lost(f"a damaged checkpoint is used: {done.stdout} {done.stderr[-500:]}")
    return Outcome(times, "nothing: one line")


def damage(path: Path, rng: random.Random) -> None:
    """Cut a file, change a byte of it, or put zeros in place of its end."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    kind = rng.choice(("cut", "change", "zeros"))
    if kind == "cut":
        del data[at:]
    elif kind == "change":
        data[at] ^= 1 << rng.randrange(8)
    else:
        data[at:] = bytes(byte ^ 255 for byte in data[at:])
    path.write_bytes(data)


Fault = Callable[[Lab, int], Outcome]
FAULTS: dict[str, Fault] = {
    "kill -9, training": kill_training,
    "kill -9, while its state is written": kill_while_a_state_is_written,
    "kill -9, a folder of pictures": kill_pictures,
    "kill -9, a video": kill_a_video,
    "kill -9, training a collection": kill_a_collection,
    "SIGTERM": terminate,
    "the disk is full": fill_the_disk,
    "folders that may only be read": forbid_writing,
    "the process that loads photos dies": kill_the_loader,
    "one of two processes dies": kill_one_of_two,
    "a server of photos fails": break_the_hub,
    "damaged states": damage_states,
    "damaged checkpoints": damage_checkpoints,
}
NEEDS_ROOT = ("the disk is full", "folders that may only be read")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=50, help="how often each fault is tried")
    parser.add_argument("--only", default="", help="a word in the names of the faults")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    failed = False
    print("| fault | tried | lost |\n|---|---|---|", flush=True)
    for name, fault in FAULTS.items():
        if args.only not in name:
            continue
        if name in NEEDS_ROOT and os.geteuid() != 0:
            print(f"| {name} | 0 | not tried: it takes root |", flush=True)
            continue
        with open_lab(args.seed) as lab:
            try:
                outcome = fault(lab, args.times)
                print(f"| {name} | {outcome.tried} | {outcome.lost} |", flush=True)
            except Lost as error:
                failed = True
                print(f"| {name} | | **{error}** |", flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
