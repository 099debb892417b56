"""Named arrays in one file, which is written whole or not at all."""

import importlib.metadata
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeAlias

import numpy as np


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PathLike: TypeAlias = str | os.PathLike[str]
VERSION = 1
_HEADER = "checkpoint.json"


def write(
    path: PathLike, header: dict[str, Any], arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write an `.npz` of the arrays, which has the header as one more member."""
    header = {
        "version": VERSION,
        "eqxopt": importlib.metadata.version("eqxopt"),
    } | header
    # Resolve links: the file that one points to is exchanged, and not the link.
    path = pathlib.Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`save`: there is no directory '{path.parent}'")
    if path.is_dir():
        raise IsADirectoryError(f"`save`: '{path}' is a directory")
    with _replacing(path) as file:
        with zipfile.ZipFile(file, "w") as archive:
            # A `ZipInfo` of a name has no time: equal trees make equal files.
            archive.writestr(zipfile.ZipInfo(_HEADER), json.dumps(header, indent=1))
            for name, array in arrays:
                info = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


@contextmanager
def reading(
    path: PathLike,
) -> Iterator[tuple[dict[str, Any], Callable[[str], np.ndarray]]]:
    """The header of a file of `write`, and a function that reads the array of a name.

    **Raises:** a `ValueError` for a file that is damaged, is of another kind, or was
    written by a newer version."""
    with open(path, "rb") as file:
        with _damage_named(path):
            archive = zipfile.ZipFile(file)
            header = json.loads(archive.read(_HEADER))
            version = int(header["version"])
        if version > VERSION:
            raise ValueError(
                f"`load`: '{os.fspath(path)}' was written by eqxopt "
                f"{header.get('eqxopt')}, in version {version} of the format. This "
                f"eqxopt reads up to version {VERSION}: install a newer one"
            )

        def read(name: str) -> np.ndarray:
            # At the end of the member, its checksum is compared.
            with _damage_named(path), archive.open(f"{name}.npy") as member:
                return np.lib.format.read_array(member, allow_pickle=False)

        yield header, read


@contextmanager
def _damage_named(path: PathLike) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in a dozen ways
        raise ValueError(
            f"`load`: '{os.fspath(path)}' is damaged, or is no file of `eqxopt.save`: "
            f"{error}"
        ) from error


@contextmanager
def _replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A new file, which takes the place of `path` in one step when it is complete.

    What a killed process leaves behind has a fixed name, which the next one overwrites.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _claimed(temporary) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # Windows does not rename an open file
                file.close()
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    if hasattr(os, "O_DIRECTORY"):
        # The new name is safe from a power cut once the directory is on the disk.
        directory = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def _claimed(path: pathlib.Path) -> Iterator[BinaryIO]:
    """The file at `path`, emptied, while other processes that claim it wait."""

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT, 0o666)

    while True:
        with open(path, "r+b", opener=create) as file:
            _lock(file)
            if not _is_at(file, path):  # the last one to have the lock renamed it
                continue
            file.truncate()
            try:
                yield file
            finally:
                _unlock(file)
            return


def _lock(file: BinaryIO) -> None:
    if fcntl is not None:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)


def _unlock(file: BinaryIO) -> None:
    # Closing alone would leave the lock to a child that was forked meanwhile.
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
