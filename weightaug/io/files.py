"""Files that are whole or not there, and a lock for those who write them."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "LOCK",
    "AnyPath",
    "absolute",
    "clear",
    "file_mode",
    "locked",
    "make_folder",
    "publish",
    "sha256",
    "temporary",
]

AnyPath = str | os.PathLike[str]

LOCK = ".lock"
_TEMPORARY = (".*.tmp", ".tmp??????")  # ours, and those that safetensors makes beside them while it writes
_PATIENCE = 600.0  # seconds

_Take = Callable[[int], None]


def absolute(path: AnyPath) -> Path:
    """A path that a later change of the working folder does not move; links are not followed.

    Raises:
        TypeError: If it is no path.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"expected a path (str or os.PathLike), got {type(path).__name__}: {path!r:.80}")
    return Path(os.path.abspath(path))


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, with their names on the disk."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        _flush_folder(path.parent)


@contextmanager
def temporary(folder: Path, name: str) -> Iterator[Path]:
    """A name for a file that is not yet whole; the file is removed if it still has that name at the end.

    Raises:
        OSError: What is raised within; where the system named no file, as when a disk is full, it names this one.
    """
    # In the same folder, because only within one file system a rename is atomic.
    path = folder / f".{name}.{os.getpid()}.tmp"
    try:
        yield path
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        path.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Renames a file once its content has reached the disk."""
    _flush(temporary, os.O_RDWR)
    os.replace(temporary, path)
    _flush_folder(path.parent)


def clear(folder: Path, pattern: str, kept: set[str]) -> None:
    """Removes what killed writers have left: temporary files, and files of a pattern that nothing names.

    Only for the holder of the lock: every living writer waits for it, so these files are nobody's.
    """
    left = [file for name in _TEMPORARY for file in folder.glob(name)]
    for file in [*left, *(f for f in folder.glob(pattern) if f.name not in kept)]:
        with suppress(OSError):  # Windows keeps a file that a reader has mapped; a later writer removes it
            file.unlink()


def file_mode() -> int:
    """The mode that the process's umask gives to a new file."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the lock ----------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds the lock of a folder; other writers, of this process or another one, wait.

    The system gives the lock back when its holder dies, so a killed writer stops nobody.

    Yields:
        Whether there is a lock; False, after a warning, on file systems that have none.

    Raises:
        TimeoutError: If another writer holds it for ten minutes.
        OSError: If the folder cannot be written.
    """
    path = folder / LOCK
    take, release = _system_lock()
    descriptor = _open_locked(path, take)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            if os.name == "posix":  # elsewhere an open file cannot be removed, and stays
                path.unlink(missing_ok=True)
            release(descriptor)
            os.close(descriptor)


def _open_locked(path: Path, take: _Take) -> int | None:
    end, pause = time.monotonic() + _PATIENCE, 0.001
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            take(descriptor)
            if _is_at(descriptor, path):
                return descriptor
            # Its last holder removed it; whoever comes next makes another one.
        except (BlockingIOError, PermissionError):
            pass
        except OSError as error:
            os.close(descriptor)
            warnings.warn(
                f"{path}: this file system has no locks ({error.strerror}), so nothing stops a second writer; write "
                "to a folder from one process at a time",
                RuntimeWarning,
                stacklevel=6,
            )
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > end:
            raise TimeoutError(
                f"{path}: another process has been writing to this data set for {_PATIENCE:.0f} s; wait for it, or "
                "end it"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _system_lock() -> tuple[_Take, _Take]:
    if os.name == "posix":
        import fcntl

        return (
            lambda descriptor: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda descriptor: fcntl.flock(descriptor, fcntl.LOCK_UN),
        )
    import importlib

    windows = importlib.import_module("msvcrt")  # by name, since its types exist on Windows alone

    def call(mode: int, descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        windows.locking(descriptor, mode, 1)

    return (
        lambda descriptor: call(windows.LK_NBLCK, descriptor),
        lambda descriptor: call(windows.LK_UNLCK, descriptor),
    )
