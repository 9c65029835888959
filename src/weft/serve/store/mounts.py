"""Whether a folder lies on another machine's disk, where SQLite's locks do not hold."""

from __future__ import annotations

from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs", "fuse.glusterfs", "fuse.sshfs"}


def remote_kind(folder: Path, table: str | None = None) -> str | None:
    """The kind of network file system that `folder` lies on, None for a local one or where that cannot be known.

    `table` is the text of Linux's /proc/self/mountinfo (proc(5)): field 5 the mount point, the kind after ` - `.
    """
    if table is None:
        try:
            table = _TABLE.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    place, best, kind = folder.resolve(), -1, None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, point = after.split(), _unescaped(before.split()[4]) if len(before.split()) > 4 else ""
        # The last of equal mount points lies on top.
        if fields and point and place.is_relative_to(point) and len(Path(point).parts) >= best:
            best, kind = len(Path(point).parts), fields[0]
    return kind if kind in _REMOTE else None


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
