"""Make the texts that the best recipe for SmolLM2 learns from and the prose it is judged on, from public sources.

    python -m tools.smollm2_texts build/texts                    # downloads 52 MB, writes three files
    python -m tools.smollm2_texts build/texts --sources folder   # of sources that were downloaded elsewhere

`calibration.txt` and `training.txt` are pieces of 256 tokens at random, no piece in both, half of them from packages of
Debian and Python's documentation, half literature; `prose.txt` is a package that neither has a piece of. The sources
are pinned by hash; what Python's own documentation gives depends on the version of Python.
"""

import argparse
import bz2
import gzip
import hashlib
import html
import io
import random
import re
import struct
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from export.calibration.sequences import default_texts
from export.cli import Bars
from tools.compare_methods import GGUF, SEQUENCE_TOKENS, smollm2_folder

DEBIAN = "http://deb.debian.org/debian/pool/main"
GITHUB = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 60
CHARACTERS = 2_600_000  # of a source, at most
CHARSXP = 9  # R Internals 1.8: the type of a string, in the last byte of its flags


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to download: where it is kept and where it comes from."""

    file: str
    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Share:
    """A text, and how many pieces of it go into the calibration and, behind those, into the training."""

    text: str
    calibration: int
    training: int


GITENBERG = f"{GITHUB}/GITenberg"
AUSTEN_URL = f"{GITHUB}/juliasilge/janeaustenr/2b8d5936ca112bb0b3dfc9ebd97c64c345c09fcf/data"
AUSTEN = {
    "emma": "65594dab7e37779e5b36c8551886d35cef2149fb442793e49b9879a4287f33f2",
    "mansfieldpark": "c5903def1e79b8494097f9bc5c52d0fb173084450432c10dfd9647c0d3bd3e2d",
    "northangerabbey": "d4b8163fba67575e3125f532752baf7d86bf25dbf975aa596b92d3868cab9519",
    "persuasion": "758a227662b5f94785199b5c80a3d23533b397d476ddc43289181fb556d945a0",
    "prideprejudice": "9704d3d55b0e59f3e9f6d6032d192200f925ec7b2ba4f1dba402f179578ae3c9",
    "sensesensibility": "0fef9c0d7598e30a0c09e866e3db4117b4a47d31cbc28cc8783eb4abdad03593",
}
SOURCES = (
    Source(
        file="fortunes.deb",
        url=f"{DEBIAN}/f/fortune-mod/fortunes_1.99.1-7.3_all.deb",
        sha256="41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
    ),
    Source(
        file="fortunes-min.deb",
        url=f"{DEBIAN}/f/fortune-mod/fortunes-min_1.99.1-7.3_all.deb",
        sha256="9eed5b45064e41133dae0967cf3a17588ad77c014fcc7bf1527fa3ea48e44d07",
    ),
    Source(
        file="jargon.deb",
        url=f"{DEBIAN}/j/jargon/jargon_4.0.0-5.3_all.deb",
        sha256="6f4db0f1a4f2b658d8a09e89fdb1814ad1487854463f01dc9158267811d4650f",
    ),
    Source(
        file="handbook.deb",
        url=f"{DEBIAN}/d/debian-handbook/debian-handbook_11.20220922_all.deb",
        sha256="3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
    ),
    Source(
        file="wordnet.deb",
        url=f"{DEBIAN}/w/wordnet/wordnet-base_3.0-37_all.deb",
        sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    ),
    Source(
        file="prose.deb",
        url=f"{DEBIAN}/a/anarchism/anarchism_15.3-3_all.deb",
        sha256="cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
    ),
    Source(
        file="shakespeare.txt",
        url=(f"{GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt"),
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    Source(
        file="angler.txt",
        url=f"{GITENBERG}/The-Complete-Angler-1653_9198/3e96ba0d8cc824b4aaf81f9e8d08dd904996df2b/9198-8.txt",
        sha256="3778f7b215466852369c9ac65626f5948d2c52d8c289108580dc880f45ed94de",
    ),
    Source(
        file="nowhere.txt",
        url=(
            f"{GITENBERG}/News-from-Nowhere--Or-An-Epoch-of-Rest--13-Being-Some-Chapters-from-a-Utopian-Romance"
            "_3261/79bd67b0ae225cd64f7bbc25c0449850b3131069/3261.txt"
        ),
        sha256="e5182ca7efdcfdb806cc6c981df49e0d40a1b578ad1c22beb9db1e69872da914",
    ),
    Source(
        file="sheppard.txt",
        url=f"{GITENBERG}/Jack-Sheppard--A-Romance_16215/53c2275d68a942a3c29d037179f8b89c9b094c3f/16215-8.txt",
        sha256="033748a35251c4904caa0d7e1c545dc1af10d494a363618eace2ad67ab0c124b",
    ),
    Source(
        file="guernsey.txt",
        url=(
            f"{GITENBERG}/Guernsey-Folk-Lore-a-collection-of-popular-superstitions-legendary-tales-peculiar-"
            "customs-pro__52834/9cde4452b41d2b14c7cdb7356967c556db2cff80/52834-0.txt"
        ),
        sha256="a4aba4bbde7f373f79105d1754503d1a0c5ac6b89f737b0b228454cab243e8b3",
    ),
    *(Source(file=f"{name}.rda", url=f"{AUSTEN_URL}/{name}.rda", sha256=known) for name, known in AUSTEN.items()),
)
FIRST = {"fortunes": 24, "jargon": 16, "handbook": 8, "wordnet": 8, "pydoc": 16}  # pieces: 18,432 tokens
FURTHER = {"fortunes": 1200, "jargon": 800, "handbook": 400, "wordnet": 400, "pydoc": 200}
PLAIN_PIECES, TRAINING_PIECES, BEFORE = 1050, 1100, 1500  # BEFORE: of the further ones, those calibration has not
LITERATURE = (
    Share(text="shakespeare", calibration=260, training=250),
    Share(text="angler", calibration=150, training=70),
    Share(text="nowhere", calibration=150, training=150),
    Share(text="sheppard", calibration=160, training=180),
    Share(text="guernsey", calibration=130, training=150),
    Share(text="austen", calibration=200, training=300),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the three texts")
    parser.add_argument("--sources", type=Path, help="folder of what is downloaded (default: OUT/sources)")
    given = parser.parse_args()
    folder = given.sources or given.out / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    with Bars(quiet=False) as progress:
        progress.stage("sources", len(SOURCES), "file")
        for source in SOURCES:
            fetch(source, folder)
            progress.step(source.file, 1)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, text in texts(folder).items():
        content = text.encode()
        new = given.out / f"{name}.new"
        new.write_bytes(content)
        new.rename(given.out / f"{name}.txt")
        print(f"{given.out / name}.txt: {len(text):,} characters, sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


def fetch(source: Source, folder: Path) -> None:
    """Download a file if it is not there; SystemExit where it can't be had or is another than the pinned one."""
    path = folder / source.file
    if path.exists():
        check(source, path.read_bytes(), str(path), f"remove it, or get {source.url}")
        return
    try:
        with urllib.request.urlopen(source.url, timeout=TIMEOUT_SECONDS) as answer:
            content = answer.read()
    except (OSError, HTTPException) as error:  # a URLError is an OSError
        raise SystemExit(f"{source.url}: {error}; download it elsewhere and put it at {path}") from error
    check(source, content, source.url, f"find the pinned one elsewhere and put it at {path}")
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").rename(path)


def check(source: Source, content: bytes, place: str, advice: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise SystemExit(f"{place} has sha256 {found}, expected {source.sha256}; {advice}")


def texts(folder: Path) -> dict[str, str]:
    """The three texts, from the folder of sources."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder(), gguf_file=GGUF)
    plain = {name: pieces(tokenizer, name, text[:CHARACTERS]) for name, text in plain_texts(folder).items()}
    literature = {one.text: pieces(tokenizer, one.text, literary_text(folder, one.text)) for one in LITERATURE}
    first = torch.cat([plain[name][:count] for name, count in FIRST.items()])
    further = torch.cat([plain[name][FIRST[name] : FIRST[name] + count] for name, count in FURTHER.items()])
    further = shuffled(further, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(3)
    calibration = torch.cat([first, further[BEFORE:]])[:PLAIN_PIECES]
    calibration = torch.cat([calibration, *(literature[one.text][: one.calibration] for one in LITERATURE)])
    training = [literature[one.text][one.calibration : one.calibration + one.training] for one in LITERATURE]
    chosen = {"calibration": calibration, "training": torch.cat([further[:TRAINING_PIECES], *training])}
    found = {
        name: "\n\n".join(tokenizer.decode(piece) for piece in shuffled(rows, generator))
        for name, rows in chosen.items()
    }
    return found | {"prose": prose(folder)}


def pieces(tokenizer: Any, name: str, text: str) -> Tensor:
    """A text's whole pieces (N, 256) in an order that its name determines."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    rows = ids[: len(ids) // SEQUENCE_TOKENS * SEQUENCE_TOKENS].view(-1, SEQUENCE_TOKENS)
    return shuffled(rows, torch.Generator().manual_seed(sum(map(ord, name))))


def shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def plain_texts(folder: Path) -> dict[str, str]:
    """Debian's packages as text, and Python's documentation."""
    return {
        "fortunes": fortunes(folder),
        "jargon": "\n\n".join(map(without_tags, read_deb(folder / "jargon.deb", r"/info/jargon\.info\.gz$"))),
        "handbook": "\n\n".join(map(without_tags, read_deb(folder / "handbook.deb", r"/html/en-US/[^/]*\.html$"))),
        "wordnet": wordnet(folder),
        "pydoc": "\n\n".join(default_texts()),
    }


def prose(folder: Path) -> str:
    """What is judged on: the package `anarchism`."""
    return "\n\n".join(map(without_tags, read_deb(folder / "prose.deb", r"\.html[^/]*$")))


def fortunes(folder: Path) -> str:
    pattern = r"/games/fortunes/(?!.*(\.dat|\.u8|ascii-art))"
    cookies = [text for name in ("fortunes-min", "fortunes") for text in read_deb(folder / f"{name}.deb", pattern)]
    return "\n\n".join(cookies).replace("\n%\n", "\n\n")


def wordnet(folder: Path) -> str:
    """Words with definitions that quote an example, in an order of their own."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        (data,) = read_deb(folder / "wordnet.deb", rf"/data\.{part}$")
        for line in data.splitlines():
            head, _, gloss = line.partition(" | ")
            if not line.startswith("  ") and '"' in gloss:
                found.append(f"{head.split()[4].replace('_', ' ')}: {gloss.strip()}")
    random.Random(0).shuffle(found)
    return "\n".join(found)


def literary_text(folder: Path, name: str) -> str:
    """A book without what Project Gutenberg puts around it; its paragraphs as one line each, but not of plays."""
    if name == "shakespeare":
        return book(folder, name)
    text = "\n\n".join(read_rda(folder / f"{one}.rda") for one in AUSTEN) if name == "austen" else book(folder, name)
    return re.sub(r"(?<=\S)\n(?=\S)", " ", text)


def book(folder: Path, name: str) -> str:
    text = decoded((folder / f"{name}.txt").read_bytes())
    start, end = re.search(r"\*\*\* ?START OF.*\n", text), re.search(r"\*\*\* ?END OF", text)
    return text[start.end() if start else 0 : end.start() if end else None].replace("\r\n", "\n")


def read_rda(path: Path) -> str:
    """The strings of a vector that R saved, a line each; the first is the variable's name."""
    return "\n".join(list(_strings(bz2.decompress(path.read_bytes())))[1:])


def _strings(content: bytes) -> Iterator[str]:
    """Every string of R's serialized data: flags with the type in the last byte, a length, the characters."""
    at = 0
    while (at := content.find(bytes([CHARSXP]), at)) >= 0:
        flags = content[max(0, at - 3) : at]
        length = struct.unpack_from(">i", content, at + 1)[0] if at + 5 <= len(content) else -1
        at += 1
        if flags in (b"\x00\x04\x00", b"\x00\x00\x00", b"\x00\x00\x80") and 0 <= length < 2000:
            yield content[at + 4 : at + 4 + length].decode("utf-8", "replace")
            at += 4 + length


def read_deb(path: Path, pattern: str) -> list[str]:
    """The text files of a Debian package whose paths match, in the order of their paths."""
    with tarfile.open(fileobj=io.BytesIO(_data_of(path.read_bytes(), path)), mode="r:*") as packed:
        members = [one for one in packed.getmembers() if one.isfile() and re.search(pattern, one.name)]
        return [_text_of(packed, one) for one in sorted(members, key=lambda one: one.name)]


def _text_of(packed: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    opened = packed.extractfile(member)
    assert opened is not None, "a plain file"
    content = opened.read()
    return decoded(gzip.decompress(content) if member.name.endswith(".gz") else content)


def _data_of(content: bytes, path: Path) -> bytes:
    """The member data.tar.* of a package, which is an archive of `ar` (deb(5))."""
    at, magic = 8, b"!<arch>\n"
    while content.startswith(magic) and at + 60 <= len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise SystemExit(f"{path} is not a package of Debian's: it has no data.tar")


def without_tags(text: str) -> str:
    text = re.sub(r"(?is)<(script|style|head).*?</\1>", " ", text)
    return re.sub(r"\n\s*\n\s*", "\n\n", html.unescape(re.sub(r"<[^>]+>", "", text)))


def decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


if __name__ == "__main__":
    sys.exit(main())
