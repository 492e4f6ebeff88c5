"""Android's public API as Java stubs, cut to what the app uses, so that Kotlin is checked against real signatures.

Android publishes its API as one text file a release, `core/api/current.txt` (Apache-2.0, The Android Open Source
Project). `api-34.txt` beside this module is a part of Android 14's: the classes that our sources name, of their members
those whose names occur in the sources, and what these mention. It holds nothing that Android does not have, so a name
of our invention stays unknown. After using another part of Android, cut it anew; the file is in Debian's sources:

    apt-get source --download-only android-platform-frameworks-base        # 14~beta1, with deb-src
    tar xf android-platform-frameworks-base_*.orig.tar.xz core/api/current.txt
    python -m tests.apps.android_api core/api/current.txt
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.apps.sources import ANDROID_SOURCES, kotlin_files

CUT = Path(__file__).with_name("api-34.txt")
HEADER = re.compile(
    r"^(?P<deprecated>@Deprecated )?(?P<modifiers>(?:(?:public|protected|static|final|abstract|sealed) )*)"
    r"(?P<kind>class|interface|enum|@interface) (?P<name>[\w.]+)(?P<rest>.*)$"
)
ANNOTATION = re.compile(r"@(?!interface\b)(?P<name>[\w.]+)(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*")
NULLNESS = {"NonNull", "Nullable"}
KEPT = NULLNESS | {"Deprecated"}
TYPE = re.compile(r"android(?:\.[a-z]\w*)+(?:\.[A-Z]\w*)+")
# overrides of abstract methods that Android's file leaves out
LEFT_OUT = {"android.widget.AbsListView": "method protected void onLayout(boolean, int, int, int, int);"}
ZEROS = {"boolean": "false", "char": "'a'", "float": "0f", "double": "0d"}
ACCESSOR = re.compile(r"^(?:get|is|set)([A-Z]\w*)$")


@dataclass(frozen=True, kw_only=True)
class ApiClass:
    """One class of the API: its head and its members, a line each as Android writes them."""

    package: str
    name: str  # of a nested class with the names of those around it
    head: str
    members: tuple[str, ...]

    @property
    def full_name(self) -> str:
        return f"{self.package}.{self.name}"


def parse(text: str) -> dict[str, ApiClass]:
    """The classes of an API file by their full names."""
    classes: dict[str, ApiClass] = {}
    package, current = "", ""
    for line in text.splitlines():
        if line.startswith("package "):
            package = line.split()[-2]
        elif line.startswith("  ") and line.endswith("{") and line[2] != " ":
            head = _without_annotations(line[:-1].strip())
            found = HEADER.match(head)
            assert found, head
            current = f"{package}.{found['name']}"
            classes[current] = ApiClass(package=package, name=found["name"], head=head, members=())
        elif line.startswith("    "):
            one = classes[current]
            classes[current] = replace(one, members=(*one.members, _without_annotations(line.strip())))
    return classes


def cut(classes: dict[str, ApiClass], sources: Iterable[str]) -> dict[str, ApiClass]:
    """The part that some Kotlin sources use."""
    text = "\n".join(sources)
    names = set(re.findall(r"\w+", text))
    imported = set(re.findall(r"^import (android\.[\w.]+)$", text, re.MULTILINE))
    first = _closure(classes, imported, names)
    # a class that is not abstract needs the methods that its interfaces ask for
    wanted = {_name(member) for one in first.values() for member in one.members if _is_abstract(member, one)}
    return _closure(classes, imported, names | wanted | {"compareTo"})


def _closure(classes: dict[str, ApiClass], imported: set[str], names: set[str]) -> dict[str, ApiClass]:
    """The imported classes with the members of those names, and the classes that these mention."""
    kept: dict[str, ApiClass] = {}
    nested = {name for name in classes if name.rpartition(".")[0] in imported and name.rpartition(".")[2] in names}
    waiting = [*imported, *nested]
    while waiting:
        name = waiting.pop()
        if name in kept or name not in classes:
            continue
        whole = classes[name]
        kept[name] = replace(whole, members=tuple(m for m in whole.members if _is_used(m, whole, names)))
        waiting += TYPE.findall(" ".join([whole.head, *kept[name].members]))
        waiting += [name.rpartition(".")[0]]  # a nested class needs the one around it
    return dict(sorted(kept.items()))


def write(classes: dict[str, ApiClass]) -> str:
    """The text of a part of the API, in Android's own form."""
    lines = ["// Signature format: 2.0; cut from Android 14's core/api/current.txt by tests/apps/android_api.py"]
    for package in sorted({one.package for one in classes.values()}):
        lines.append(f"package {package} {{")
        for one in classes.values():
            if one.package == package:
                lines += [f"  {one.head} {{", *(f"    {member}" for member in one.members), "  }"]
        lines.append("}")
    return "\n".join(lines) + "\n"


def java_stubs(classes: dict[str, ApiClass]) -> dict[str, str]:
    """Java sources by path: they compile, and do nothing."""
    stubs = {f"androidx/annotation/{name}.java": _annotation(name) for name in NULLNESS}
    for one in classes.values():
        if "." not in one.name:
            body = "\n".join(_class(one, classes))
            stubs[f"{one.full_name.replace('.', '/')}.java"] = f"package {one.package};\n{body}\n"
    return stubs


def _is_abstract(member: str, of: ApiClass) -> bool:
    is_interface = " interface " in f" {of.head}" and not {"default", "static"} & set(member.split())
    return member.startswith("method ") and (is_interface or " abstract " in member)


def _is_used(member: str, of: ApiClass, names: set[str]) -> bool:
    """Whether a member is named, or has to be there for its class to be what it is."""
    is_interface = " interface " in f" {of.head}"
    if member.startswith(("ctor ", "enum_constant ")) or (is_interface and not member.startswith("field ")):
        return True
    name = _name(member)
    accessor = ACCESSOR.match(name)
    as_property = accessor[1][0].lower() + accessor[1][1:] if accessor else name
    return " abstract " in member or name in names or as_property in names


def _name(member: str) -> str:
    if member.startswith("field "):
        return member.split(" = ")[0].rstrip(";").split()[-1]
    return member.partition("(")[0].rstrip(";").split()[-1]


def _without_annotations(line: str) -> str:
    """The line with no annotation but those that a compiler heeds."""
    return ANNOTATION.sub(lambda found: f"@{found['name']} " if found["name"] in KEPT else "", line)


def _annotation(name: str) -> str:
    return f"package androidx.annotation;\npublic @interface {name} {{ }}\n"


def _java(text: str) -> str:
    return re.sub(r"@(NonNull|Nullable)\b", r"@androidx.annotation.\1", text)


def _class(one: ApiClass, classes: dict[str, ApiClass]) -> Iterator[str]:
    found = HEADER.match(one.head)
    assert found
    kind, simple = found["kind"], one.name.rpartition(".")[2]
    modifiers = found["modifiers"].split()
    if "." not in one.name:
        modifiers = [word for word in modifiers if word != "static"]
    if kind != "class":
        modifiers = [word for word in modifiers if word not in ("abstract", "final")]
    if found["deprecated"]:
        yield "@Deprecated"
    yield f"{' '.join(modifiers)} {kind} {simple}{_inheritance(found['rest'], kind)} {{"
    if kind == "enum":
        yield ", ".join(_name(member) for member in one.members if member.startswith("enum_constant ")) + ";"
    for member in (*one.members, *filter(None, [LEFT_OUT.get(one.full_name)])):
        yield from _member(member, kind, simple)
    if kind == "class" and not any(member.startswith("ctor ") and "()" in member for member in one.members):
        yield f"  protected {simple}() {{ }}"  # so that stubs of subclasses compile
    for nested in classes.values():
        if nested.package == one.package and nested.name.rpartition(".")[0] == one.name:
            yield from _class(nested, classes)
    yield "}"


def _inheritance(rest: str, kind: str) -> str:
    """What follows a class's name, interfaces separated by commas as Java has them."""
    if kind in ("enum", "@interface"):
        return ""
    word = "extends" if kind == "interface" else "implements"
    before, found, listed = rest.partition(f" {word} ")
    return before + (f" {word} {', '.join(_split(listed.strip(), ' '))}" if found else "")


def _member(member: str, kind: str, simple: str) -> Iterator[str]:
    what, _, rest = member.rstrip(";").partition(" ")
    if what == "enum_constant":
        return
    rest = rest.split("; //")[0]
    if what == "field":
        yield f"  {_field(rest)};"
    else:
        yield f"  {_method(rest, what, kind, simple)}"


def _field(rest: str) -> str:
    declared, _, value = rest.partition(" = ")
    if " final " not in f" {declared}":
        return _java(declared)
    kind = declared.split()[-2]
    zero = {"boolean": "false", "char": "'a'", "float": "0f", "double": "0d"}.get(
        kind, "0" if kind.islower() else "null"
    )
    is_text = kind == "java.lang.String" and value
    return (
        f"{_java(declared)} = {value if is_text or (kind in ('int', 'long') and value.lstrip('-').isdigit()) else zero}"
    )


def _method(rest: str, what: str, kind: str, simple: str) -> str:
    before, _, after = rest.partition("(")
    depth, end = 1, 0
    while depth:
        depth += {"(": 1, ")": -1}.get(after[end], 0)
        end += 1
    parameters = ", ".join(f"{_java(text)} p{index}" for index, text in enumerate(_split(after[: end - 1], ",")))
    words = before.split()
    if what == "ctor":
        words[-1] = simple
    tail = after[end:]
    has_body = " abstract " not in f" {before}" and (kind != "interface" or {"default", "static"} & set(words))
    body = "{ }" if what == "ctor" else '{ throw new RuntimeException("stub"); }' if has_body else ";"
    return f"{_java(' '.join(words))}({parameters}){tail} {body}"


def _split(text: str, separator: str) -> list[str]:
    """The parts of a list, angle brackets kept together; a parameter's own name is left out."""
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == separator and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [part.strip() for part in [*parts, part] if part.strip()]


if __name__ == "__main__":
    everything = parse(Path(sys.argv[1]).read_text(encoding="utf-8"))
    used = [place.read_text(encoding="utf-8") for root in ANDROID_SOURCES for place in kotlin_files(root)]
    CUT.write_text(write(cut(everything, used)), encoding="utf-8")
