"""Train on a data set larger than memory and watch how much memory that takes.

The set is a real .npz of the shape asked for (25,000 x 512 x 512 x 3 is 19.7 GB), stored
uncompressed in a sparse file: each image is black but for a stamp of a 48th of it, so that it takes
0.4 GB of disk. The stamp's pattern is unique to the image, its height tells the class.

    python benchmarks/large_data.py --images 2500       # 2 GB
    python benchmarks/large_data.py --images 25000      # 20 GB

The time of the search for near duplicates grows with the square of the number of images.

Three numbers are printed. *Own memory* (RssAnon) is what the program holds and nobody can take
away: the one that must fit. *Resident* (ru_maxrss) also counts pages of the mapped file that happen
to be in the system's file cache; the system drops them when anyone needs the room. *Limit*
(RLIMIT_DATA) is what the system was told to refuse: the program ends with a MemoryError above it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanwise.data.cache import npy_header

PAGE = 4096  # what a file system stores at least
PLACES = 48  # of the stamp in an image
CLASSES = 4
BLOCK = 64  # images made at a time


class SparseFile:
    """A file to write to whose pages of zeros take no room on the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes | memoryview) -> int:
        data = memoryview(data).cast("B")
        place, size = self._file.tell(), len(data)
        whole = size - size % PAGE
        if place % PAGE or not whole:
            return self._file.write(data)
        used = np.frombuffer(data, np.uint8, whole).reshape(-1, PAGE).any(axis=1)
        edges = [0, *(np.flatnonzero(np.diff(used)) + 1).tolist(), len(used)]
        for start, stop in itertools.pairwise(edges):
            if used[start]:
                self._file.seek(place + start * PAGE)
                self._file.write(data[start * PAGE : stop * PAGE])
        self._file.seek(place + whole)
        self._file.write(data[whole:])
        return size

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.truncate()
        self._file.close()


def write_set(path: Path, num_images: int, side_px: int, seed: int = 0) -> None:
    """X (n, side, side, 3) and y (n,) in an uncompressed .npz, sparse on the disk."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, PLACES, num_images)
    file = SparseFile(path)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[arg-type]
        entry = zipfile.ZipInfo("X.npy")
        with archive.open(entry, "w", force_zip64=True) as stream:
            stream.write(_header((num_images, side_px, side_px, 3), PAGE - file.tell()))
            for start in range(0, num_images, BLOCK):
                stream.write(_block(places[start : start + BLOCK], side_px, rng).data)
        with archive.open("y.npy", "w") as stream:
            np.lib.format.write_array(stream, places * CLASSES // PLACES)
    file.close()


def _header(shape: tuple[int, ...], size: int) -> bytes:
    """An .npy header of exactly this size, so that the pixels begin at a page of the file."""
    text = npy_header(shape, np.dtype(np.uint8))
    inner = text[10:].rstrip().ljust(size - 11) + b"\n"
    return text[:8] + len(inner).to_bytes(2, "little") + inner


def _block(places: NDArray[np.int64], side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    stamp = side_px * side_px * 3 // PLACES
    images = np.zeros((len(places), PLACES, stamp), np.uint8)
    patterns = rng.integers(0, 256, (len(places), 16, 1, 3), np.uint8)  # 16 colours from left
    lines = np.repeat(patterns, side_px // 16, axis=2).reshape(len(places), -1)
    repeated = np.tile(lines, stamp // (side_px * 3) + 1)[:, :stamp]
    images[np.arange(len(places)), places] = repeated
    return images


class Watch(threading.Thread):
    """Highest memory of a process by /proc/PID/status, since its last line and in all."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.path = Path(f"/proc/{pid}/status")
        self.own_gb = self.file_gb = self.since_line_gb = 0.0

    def run(self) -> None:
        while True:
            try:
                lines = dict(
                    line.split(":", 1) for line in self.path.read_text().splitlines() if ":" in line
                )
                own, mapped = (int(lines[key].split()[0]) / 1e6 for key in ("RssAnon", "RssFile"))
            except (OSError, KeyError):
                return
            self.own_gb, self.file_gb = max(self.own_gb, own), max(self.file_gb, mapped)
            self.since_line_gb = max(self.since_line_gb, own)
            time.sleep(0.02)


def train(data: Path, folder: Path, options: argparse.Namespace) -> None:
    """One short training in a process of its own; prints its lines with time and own memory."""
    command = [
        *(sys.executable, "-m", "scanwise", "train", str(data), "--model", options.model),
        *("--epochs", "1", "--batch-size", str(options.batch_size), "--augment", options.augment),
        *("--output", str(folder / "run"), "--force"),
    ]  # fmt: skip
    environment = os.environ | {"SCANWISE_CACHE": str(folder / "cache"), "SCANWISE_OFFLINE": "1"}
    limit = int(options.limit_gb * 1e9)
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )  # fmt: skip
    watch = Watch(process.pid)
    watch.start()
    assert process.stderr is not None
    for line in process.stderr:
        print(f"{time.monotonic() - began:7.0f} s {watch.since_line_gb:6.2f} GB  {line.rstrip()}")
        watch.since_line_gb = 0.0
    _, status, usage = os.wait4(process.pid, 0)
    print(
        f"\nexit code {os.waitstatus_to_exitcode(status)} after {time.monotonic() - began:.0f} s "
        f"({usage.ru_utime + usage.ru_stime:.0f} s of CPU)\n"
        f"data             {data.stat().st_size / 1e9:6.2f} GB "
        f"({data.stat().st_blocks * 512 / 1e9:.2f} GB on disk)\n"
        f"own memory       {watch.own_gb:6.2f} GB (highest RssAnon)\n"
        f"limit            {options.limit_gb:6.2f} GB (RLIMIT_DATA)\n"
        f"resident         {usage.ru_maxrss / 1e6:6.2f} GB (ru_maxrss; {watch.file_gb:.2f} GB are "
        "pages of files, which the system can take back)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=2_500)
    parser.add_argument("--side", type=int, default=512, help="px, a multiple of 256")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--model", default="mlp:16")
    parser.add_argument("--augment", default="none")
    parser.add_argument("--limit-gb", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, help="Where the set and the cache go; kept.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scanwise-large-") as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"large-{options.images}-{options.side}.npz"
        if not data.exists():
            began = time.monotonic()
            write_set(data, options.images, options.side)
            print(f"{data} written in {time.monotonic() - began:.0f} s")
        train(data, folder, options)


if __name__ == "__main__":
    main()
