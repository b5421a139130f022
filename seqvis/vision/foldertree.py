"""List the files below a folder: each real file once, however many links lead to it.

Links to files and folders are followed, even out of the tree. Files in the tree itself come first.
A link to a file that is already listed is set aside, and so is a link to a folder that contains the
link itself, since following it would never end.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyarrow import fs

from seqvis.checks import has_control_characters
from seqvis.storage import Location, storage_errors

NOT_UTF8 = "name is not UTF-8"
CONTROLS = "name has a line feed or another control character"
DANGLING = "dangling link"
SAME_FILE = "another name of a listed file"
SAME_FOLDER = "another name of a listed folder"
LINK_UPWARD = "link to a folder that it is in"
NO_FILE = "no such file"
UNREADABLE = "cannot be read"
NOT_A_FILE = "not a regular file"
COMPRESSED = "compressed tar"

REMEDIES = {
    NOT_UTF8: "rename it: its name must be UTF-8",
    CONTROLS: "rename it",
    DANGLING: "mend the link or delete it",
    SAME_FILE: "nothing to do, unless this name's folder is its label: then delete the other name",
    SAME_FOLDER: "nothing to do: its pictures are listed under the other name",
    LINK_UPWARD: "nothing to do: link to the folders that you want instead",
    NO_FILE: "correct the table, or put the file there",
    UNREADABLE: "grant the right to read it, or check its disk",
    NOT_A_FILE: "nothing to do: it holds no picture",
    COMPRESSED: "unpack it to a tar, whose pictures can be read one by one",
}

_Identity = tuple[int, int] | str


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below a folder, or a part of one."""

    path: str  # below the folder
    place: str  # the file on the file system
    size: int  # bytes
    modified: int  # the file's time, ns since 1970
    first_byte: int = 0  # in the file, of a part
    label: str = ""  # of a part that has one beside it


@dataclass
class FolderTree:
    """The files below a folder, in the order of their paths, and the paths that were set aside."""

    files: list[FoundFile] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)  # printable path, reason


def read_tree(folder: Location) -> FolderTree:
    """List all files below `folder`; hidden files and folders are left out.

    Raises StorageError if the folder itself cannot be read.
    """
    if folder.is_local:
        return _LocalTree(folder).read()
    prefix = len(folder.path.rstrip("/")) + 1
    with storage_errors(folder.uri, "read"):
        infos = folder.filesystem.get_file_info(fs.FileSelector(folder.path, recursive=True))
    files = [
        FoundFile(info.path[prefix:], info.path, *size_and_time(info))
        for info in infos
        if info.type == fs.FileType.File and "/." not in f"/{info.path[prefix:]}"
    ]
    files.sort(key=lambda file: file.path)
    odd = [file for file in files if has_control_characters(file.path)]
    good = [file for file in files if not has_control_characters(file.path)]
    return FolderTree(good, [(printable(file.path), CONTROLS) for file in odd])


def size_and_time(info: fs.FileInfo) -> tuple[int, int]:
    """Return a file's size, -1 if there is no such file, and its time in ns since 1970."""
    if info.type != fs.FileType.File:
        return -1, 0
    return int(info.size), int(info.mtime_ns or 0)


def printable(path: str) -> str:
    """Return the path with bytes that are not UTF-8 as `\\xe9`, and control characters as `\\n`."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)


class _LocalTree:
    def __init__(self, folder: Location):
        self._uri = folder.uri
        self._root = folder.path.rstrip("/") or "/"
        self._folders: set[_Identity] = set()
        self._tree = FolderTree()
        self._links: list[str] = []  # to be followed when no folder of the tree is left

    def read(self) -> FolderTree:
        with storage_errors(self._uri, "read"):
            os.scandir(self._root).close()
        candidates = list(self._walk(""))
        to_files: list[str] = []
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                candidates += self._follow(link, to_files)
        listed: set[_Identity] = set()
        for path, state in sorted(candidates) + [(link, None) for link in sorted(to_files)]:
            self._add(path, state, listed)
        self._tree.files.sort(key=lambda file: file.path)
        self._tree.aside.sort()
        return self._tree

    def _walk(self, start: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield files below a folder that is reached without links; remember the links."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                identity = _identity(os.stat(self._place(folder)), self._place(folder))
                if identity in self._folders:
                    self._set_aside(folder, SAME_FOLDER)
                    continue
                self._folders.add(identity)
                entries = list(os.scandir(self._place(folder)))
            except OSError:
                self._set_aside(folder, UNREADABLE)
                continue
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    self._links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                else:
                    try:
                        yield path, entry.stat(follow_symlinks=False)
                    except OSError:
                        self._set_aside(path, UNREADABLE)

    def _follow(self, link: str, to_files: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        place = self._place(link)
        try:
            state = os.stat(place)
        except OSError as error:  # a link to itself, too
            self._set_aside(link, UNREADABLE if isinstance(error, PermissionError) else DANGLING)
            return
        if not stat.S_ISDIR(state.st_mode):
            to_files.append(link)
            return
        target, here = os.path.realpath(place), os.path.realpath(os.path.dirname(place))
        if f"{here}/".startswith(f"{target.rstrip('/')}/"):
            self._set_aside(link, LINK_UPWARD)
        else:
            yield from self._walk(link)

    def _add(self, path: str, state: os.stat_result | None, listed: set[_Identity]) -> None:
        place = self._place(path)
        if not is_utf8(path):
            self._set_aside(path, NOT_UTF8)
            return
        if has_control_characters(path):
            self._set_aside(path, CONTROLS)
            return
        try:
            # A link's own entry says nothing of the file; other files are not looked at again.
            state, is_link = (state, False) if state else (os.stat(place), True)
        except OSError:
            self._set_aside(path, DANGLING)
            return
        if not stat.S_ISREG(state.st_mode):
            self._set_aside(path, NOT_A_FILE)
            return
        identity = _identity(state, place)
        if identity in listed and (is_link or state.st_nlink > 1):
            self._set_aside(path, SAME_FILE)
            return
        listed.add(identity)
        self._tree.files.append(FoundFile(path, place, state.st_size, state.st_mtime_ns))

    def _place(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}" if path else self._root

    def _set_aside(self, path: str, reason: str) -> None:
        self._tree.aside.append((printable(path), reason))


def _identity(state: os.stat_result, place: str) -> _Identity:
    """Return what all names of a file share; some network file systems give no number."""
    return (state.st_dev, state.st_ino) if state.st_ino else os.path.realpath(place)


def is_utf8(path: str) -> bool:
    """Tell whether a name that the system gave can be written as UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
