"""The classes that Android's build makes of a project: `R`, from its resources, and `BuildConfig`."""

import re
from pathlib import Path
from xml.etree import ElementTree

RESOURCES = ("layout", "menu", "drawable")
ID = re.compile(r"@\+id/(\w+)")


def resource_names(resources: Path) -> dict[str, set[str]]:
    """What is below a `res` folder, by kind."""
    names: dict[str, set[str]] = {"id": set()}
    for file in sorted(resources.rglob("*.xml")):
        root = ElementTree.parse(file).getroot()
        kind = file.parent.name.partition("-")[0]
        if kind == "values":
            for entry in root:
                names.setdefault(entry.tag, set()).add(entry.attrib["name"].replace(".", "_"))
        else:
            assert kind in RESOURCES, f"{file}: resources of a kind that nobody expects"
            names.setdefault(kind, set()).add(file.stem)
            names["id"] |= set(ID.findall(file.read_text(encoding="utf-8")))
    return names


def r_class(package: str, resources: Path) -> str:
    """`R.java`: a number for each name."""
    lines = [f"package {package};", "public final class R {"]
    for number, (kind, names) in enumerate(sorted(resource_names(resources).items())):
        lines.append(f"  public static final class {kind} {{")
        lines += [
            f"    public static final int {name} = {number * 1000 + index};" for index, name in enumerate(sorted(names))
        ]
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def build_config(package: str, build_script: Path) -> str:
    """`BuildConfig.java` with the app's version and the fields that a build script declares; all of them are texts."""
    script = build_script.read_text(encoding="utf-8")
    fields = re.findall(r'buildConfigField\("String", "(\w+)"', script)
    version = [
        f"  public static final int VERSION_CODE = {code};" for code in re.findall(r"versionCode = (\d+)", script)
    ]
    body = "\n".join([*version, *(f'  public static final String {name} = "0";' for name in fields)])
    return f"package {package};\npublic final class BuildConfig {{\n{body}\n}}\n"
