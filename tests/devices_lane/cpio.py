"""An initramfs: a cpio archive in the "newc" format of the kernel's early user space, owned by root throughout.

The format: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

END = "TRAILER!!!"


class Archive:
    """Files, directories and links; a name added again replaces nothing, so what comes first stays."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def directory(self, name: str) -> None:
        """A directory and those above it."""
        parents = [str(parent) for parent in reversed(Path(name).parents) if str(parent) != "."]
        for path in (*parents, name):
            self._add(path, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """A regular file."""
        if Path(name).parent != Path():
            self.directory(str(Path(name).parent))
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def tree(self, root: Path, leave_out: Sequence[str] = ()) -> None:
        """Everything below a directory, links as they are."""
        for place in sorted(root.rglob("*")):
            name = str(place.relative_to(root))
            if any(name == left or name.startswith(f"{left}/") for left in leave_out):
                continue
            if place.is_symlink():
                self.link(name, str(place.readlink()))
            elif place.is_dir():
                self.directory(name)
            else:
                self.file(name, place.read_bytes(), executable=os.access(place, os.X_OK))

    def bytes(self) -> bytes:
        """The whole archive."""
        return b"".join([*self._parts, _entry(END, 0, b"", 0)])

    def _add(self, name: str, mode: int, content: bytes) -> None:
        if name not in self._names:
            self._names.add(name)
            self._parts.append(_entry(name, mode, content, len(self._names)))


def _entry(name: str, mode: int, content: bytes, inode: int) -> bytes:
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, time, size, device (2), its device (2), length of the name, checksum
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
