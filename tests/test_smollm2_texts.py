"""The sources of SmolLM2's texts: what is read of packages and of R's data, and what is said when one is wrong."""

import bz2
import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import pytest

from tools.smollm2_texts import Source, fetch, read_deb, read_rda, without_tags


def package(files: dict[str, bytes]) -> bytes:
    """A Debian package as deb(5) has it, its checksums and owners aside."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": packed.getvalue()}
    found = b"!<arch>\n"
    for name, content in members.items():
        found += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        found += b"\n" * (len(content) % 2)
    return found


def test_files_of_a_package_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    files = {
        "./usr/share/b.txt": "naïve".encode("latin-1"),
        "./usr/share/a.txt.gz": gzip.compress("naïve, too".encode()),
        "./usr/share/c.dat": b"no text",
    }
    (tmp_path / "some.deb").write_bytes(package(files))
    assert read_deb(tmp_path / "some.deb", r"/share/.*\.txt") == ["naïve, too", "naïve"]


def test_what_is_no_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.deb").write_bytes(b"<html>404</html>")
    with pytest.raises(SystemExit, match=r"some\.deb is not a package of Debian's"):
        read_deb(tmp_path / "some.deb", ".")


def test_strings_of_rs_data_are_read_without_the_variables_name(tmp_path: Path) -> None:
    def string(text: str) -> bytes:
        return b"\x00\x04\x00\x09" + struct.pack(">i", len(text.encode())) + text.encode()

    content = b"RDX3\nX\n" + string("emma") + b"\x00\x00\x00\x10" + string("It was a fine day.") + string("")
    (tmp_path / "emma.rda").write_bytes(bz2.compress(content + string("Ça va?")))
    assert read_rda(tmp_path / "emma.rda") == "It was a fine day.\n\nÇa va?"


def test_tags_go_and_entities_are_written_out() -> None:
    assert without_tags("<head>x</head><p>One &amp; two</p>\n \n\n<p>three</p>") == " One & two\n\nthree"


def test_a_source_is_kept_and_one_that_is_another_is_refused(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.write_bytes(b"some text")
    source = Source(file="one.txt", url=served.as_uri(), sha256=hashlib.sha256(b"some text").hexdigest())
    fetch(source, tmp_path)
    served.unlink()
    fetch(source, tmp_path)  # from the folder
    (tmp_path / "one.txt").write_bytes(b"other text")
    with pytest.raises(SystemExit, match=r"one\.txt has sha256 .*, expected "):
        fetch(source, tmp_path)


def test_a_source_that_cannot_be_had_says_where_to_put_it(tmp_path: Path) -> None:
    source = Source(file="one.txt", url=(tmp_path / "gone").as_uri(), sha256="")
    with pytest.raises(SystemExit, match=r"gone: .*put it at .*one\.txt"):
        fetch(source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_download_that_is_another_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "served").write_bytes(b"a page that says 404")
    source = Source(file="one.txt", url=(tmp_path / "served").as_uri(), sha256="00")
    with pytest.raises(SystemExit, match=r"served has sha256 .*, expected 00; .*put it at .*one\.txt"):
        fetch(source, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["served"]
