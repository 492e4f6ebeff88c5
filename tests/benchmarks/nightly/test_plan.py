"""The plan of a night: pure, deterministic, and refused where it names what isn't there."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.nightly.config import NightlyConfig, NightlyConfigError, read_config, resolved
from benchmarks.nightly.exports import command
from benchmarks.nightly.plan import plan

UNKNOWN_DEVICE = """
protocol = {prompt_tokens = [1]}
matrix = [{models = ["m"], backends = ["b"], schemes = ["s"], devices = ["x"]}]
devices = {}
"""
REPOSITORY = Path(__file__).parents[3]
CHECKED_IN = REPOSITORY / "benchmarks" / "nightly.toml"


def config(**changes: Any) -> NightlyConfig:
    whole: dict[str, Any] = {
        "protocol": {"prompt_tokens": [16]},
        "matrix": [
            {
                "models": ["tiny"],
                "backends": ["onnx", "executorch"],
                "schemes": ["int4", "int8"],
                "devices": ["a", "b"],
            },
            {"models": ["tiny"], "backends": ["onnx-portable"], "schemes": ["int4"], "devices": ["a"]},
        ],
        "devices": {"a": {"farm": "local", "device": "host"}, "b": {"farm": "google", "model": "shiba"}},
    }
    return NightlyConfig.model_validate({**whole, **changes})


def test_every_combination_is_one_job_and_one_bundle_serves_all_backends() -> None:
    jobs = plan(config(), "2026-11-22")
    assert len(jobs) == 2 * 2 * 2 + 1
    assert len({job.job_id for job in jobs}) == len(jobs)
    exports = {job.export for job in jobs}
    assert {export.scheme: export.backends for export in exports} == {
        "int4": ("executorch", "onnx", "onnx-portable"),
        "int8": ("executorch", "onnx"),
    }


def test_the_same_night_is_the_same_plan_whatever_the_order_of_the_file() -> None:
    once, again = config(), config()
    turned = config(matrix=[block.model_dump() for block in reversed(once.matrix)])
    assert plan(once, "n1") == plan(again, "n1") == plan(turned, "n1")


def test_no_two_nights_need_to_run_in_the_same_order() -> None:
    def order(night: str) -> list[str]:
        return [f"{job.export.scheme} {job.backend}" for job in plan(config(), night) if job.device == "a"]

    orders = {tuple(order(f"2026-11-{day:02}")) for day in range(1, 15)}
    assert len(orders) > 5
    assert len({tuple(sorted(each)) for each in orders}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": {"prompt_tokens": [16], "repeats": 9}},
        {
            "devices": {
                "a": {"farm": "local", "device": "host", "threads": 2},
                "b": {"farm": "google", "model": "tokay"},
            }
        },
    ],
)
def test_another_protocol_or_device_is_another_job(changes: dict[str, Any]) -> None:
    assert not {job.job_id for job in plan(config(), "n")} & {job.job_id for job in plan(config(**changes), "n")}


def test_a_job_name_can_stand_in_a_record_and_in_a_path() -> None:
    names = {"models": ["qwen3.5-0.8b"], "backends": ["b" * 40], "schemes": ["s" * 40], "devices": ["a"]}
    (job,) = plan(config(matrix=[names]), "2026-11-22")
    assert len(job.job_id) <= 80
    assert "/" not in job.job_id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[protocol]\n", "prompt_tokens: Field required"),
        ("nonsense", "not TOML"),
        (UNKNOWN_DEVICE, "known: none"),
        ("[protocol]\nprompt_tokens=[0]\n", "greater than or equal to 1"),
        ("[protocol]\nprompt_tokens=[1]\nrepeat=2\n", "repeat: Extra inputs"),
    ],
)  # fmt: skip
def test_a_file_that_says_something_else_is_a_named_error(tmp_path: Path, text: str, message: str) -> None:
    place = tmp_path / "nightly.toml"
    place.write_text(text)
    with pytest.raises(NightlyConfigError, match=message):
        read_config(place)


def test_a_setting_is_taken_from_the_environment_and_missed_by_name() -> None:
    assert resolved({"serial": "$PHONE", "runs": 2}, "[devices.a]", {"PHONE": "abc"}) == {"serial": "abc", "runs": 2}
    with pytest.raises(NightlyConfigError, match=r"\[devices.a\]: serial is \$PHONE, and no such"):
        resolved({"serial": "$PHONE"}, "[devices.a]", {})


def test_the_checked_in_matrix_is_read_and_planned(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = plan(read_config(CHECKED_IN), "2026-11-22")
    assert {job.farm for job in jobs} == {"local"}
    assert main(["nightly", "--config", str(CHECKED_IN), "--plan"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(jobs) > 0


def test_the_exporter_is_asked_for_by_its_command_line() -> None:
    export = next(job.export for job in plan(config(), "n") if job.export.scheme == "int8")
    words = command(export, Path("out"))
    expected = "-m export --target android --model tiny --scheme int8 --backend executorch --backend onnx --out out"
    assert " ".join(words[1:]) == expected
