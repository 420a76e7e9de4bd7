"""A file system whose power can be cut: everything that was not synced is lost, for all processes at once.

    disk = Disk(folder).mount()      # ext4 in a file, on a loop device
    …                                # servers write to disk.path
    cluster.kill()                   # a killed process leaves its writes in the page cache
    disk.cut_power()                 # the page cache is thrown away: FS_IOC_SHUTDOWN, without flushing the journal
    disk.path                        # mounted again: what had been written back or synced

`kill -9` alone never shows what a power cut loses, because the kernel goes on writing. The shutdown ioctl is how the
Linux file systems test their own crash recovery (xfstests): from that moment nothing reaches the device.
LIMIT: the device's own volatile cache is not dropped. A sync flushes it too, so a real cut can lose no more synced data.
LIMIT: needs root, loop devices and the right to mount. `missing_requirement()` returns what is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
WITHOUT_FLUSH = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH
KEEPER = "import subprocess, sys; sys.stdin.read(); subprocess.run(['umount', '-l', sys.argv[1]], capture_output=True)"


class Disk:
    """An ext4 file system of `mib` MiB (sparse) at `path`. It is unmounted even if this process dies."""

    def __init__(self, folder: Path, *, mib: int = 4096) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._image, self._mib = folder / "disk", folder / "disk.img", mib
        self._keeper: subprocess.Popen[bytes] | None = None

    def mount(self) -> Disk:
        self.path.mkdir(exist_ok=True)
        if not self._image.exists():
            with self._image.open("wb") as image:
                image.truncate(self._mib * 2**20)
            _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(self._image))
        _run("mount", "-o", "loop", str(self._image), str(self.path))
        if self._keeper is None:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", KEEPER, str(self.path)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        return self

    def sync(self) -> None:
        """Sync everything, so that it survives a cut."""
        _run("sync", "-f", str(self.path))

    def cut_power(self) -> None:
        """Cut the power, replay the journal and mount again. Kill the processes that have files open first.

        This mounts a copy of the device, because another mount namespace may still hold the one that was shut down.
        """
        root = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(root, SHUTDOWN, WITHOUT_FLUSH)
        finally:
            os.close(root)
        _unmount(self.path)
        copy = self._image.with_suffix(".copy")
        _run("cp", "--sparse=always", "--reflink=auto", str(self._image), str(copy))
        copy.replace(self._image)
        self.mount()

    def unmount(self) -> None:
        _unmount(self.path)
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait(20)
            self._keeper = None
        self._image.unlink()


def missing_requirement() -> str | None:
    """Why the power cannot be cut on this machine; None if it can. Tries it with one synced and one unsynced file."""
    if os.geteuid() != 0:
        return "the power can only be cut by root"
    missing = [each for each in ("mkfs.ext4", "mount", "umount") if not shutil.which(each)]
    if missing:
        return f"{', '.join(missing)} missing"
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder), mib=64)
        try:
            disk.mount()
        except OSError as error:
            return f"no loop device can be mounted: {error}"
        try:
            for name in ("synced", "unsynced"):
                with (disk.path / name).open("wb") as file:
                    file.write(b"x" * 100_000)
                    if name == "synced":
                        os.fsync(file.fileno())
            disk.cut_power()
            sizes = [(disk.path / n).stat().st_size if (disk.path / n).exists() else 0 for n in ("synced", "unsynced")]
        except OSError as error:
            return f"the file system cannot be shut down: {error}"
        finally:
            disk.unmount()
    return None if sizes == [100_000, 0] else f"a cut left {sizes} bytes of a synced and an unsynced file"


def _unmount(path: Path) -> None:
    """Unmount, once nobody has files open: a server's projector ends a moment after the server was killed."""
    deadline = time.monotonic() + 15
    while True:
        try:
            _run("umount", str(path))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
