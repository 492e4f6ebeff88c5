"""What travels to a phone that only a farm can touch: one archive, and one script that runs it.

The archive holds the runner, the artifact and one file of cases a process; the script unpacks it, runs case after case
and leaves all event streams in one file. Each stream is sealed by its own last line, so that nothing depends on the
script's exit status. The script is plain POSIX shell: Android's mksh and toybox, and any Linux.
"""

import tarfile
from pathlib import Path

from benchmarks.cases import write_cases
from benchmarks.farms import Work
from benchmarks.phone_runner import runner_files

__all__ = ["EVENTS", "PARCEL", "ROOT", "SCRIPT", "write_parcel"]

ROOT = "/data/local/tmp/qwen-edge-job"
EVENTS = "events.jsonl"
PARCEL = "parcel.tar"
SCRIPT = f"""\
#!/system/bin/sh
# Unpack the parcel, run each case in a process of its own, put all event streams into one file.
root="${{QWEN_EDGE_ROOT:-{ROOT}}}"
cd "$root" || exit 1
rm -rf runner artifact cases out {EVENTS}
tar -xf {PARCEL} && mkdir out || exit 1
for file in cases/*.json; do
  name="$(basename "$file" .json)"
  LD_LIBRARY_PATH="$root/runner" ./runner/runner --artifact artifact --cases "$file" --out "out/$name.jsonl"
  echo "case $name: status $?"
done
cat out/*.jsonl > {EVENTS}
rm -rf runner artifact cases out {PARCEL}
"""


def write_parcel(work: Work, runner: Path | None) -> tuple[Path, Path]:
    """The archive and the script, below the job's folder; the same job always gives the same bytes."""
    cases = work.folder / "cases"
    cases.mkdir(exist_ok=True)
    for number, one in enumerate(work.cases):
        write_cases(one, cases / f"{number:03}-{one.cases[0].case}.json")
    files = {f"cases/{place.name}": place for place in sorted(cases.iterdir())}
    found = runner_files(runner, work.artifact.manifest.runtime.name, "arm64")
    files |= {f"runner/{file.name}": file.source for file in found.files}
    programs = {f"runner/{file.name}" for file in found.files if file.program}
    names = ["manifest.json", *(entry.path for entry in work.artifact.manifest.files)]
    files |= {f"artifact/{name}": work.artifact.path / name for name in names}
    parcel, script = work.folder / PARCEL, work.folder / "run.sh"
    with tarfile.open(parcel, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, place in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = place.stat().st_size, 0o755 if name in programs else 0o644
            with place.open("rb") as file:
                archive.addfile(entry, file)
    script.write_text(SCRIPT, encoding="utf-8")
    script.chmod(0o755)
    return parcel, script
