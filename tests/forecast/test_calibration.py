from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.errors import InputError
from rayalign.forecast.calibration import (
    SPREAD,
    WIDENED,
    Calibration,
    Record,
    add_records,
    load_calibration,
    own_file,
    read_records,
)

CPU = "test CPU, 2 cores"


def record(share: float, device: str = CPU, phase: str = "update", parameters: int = 100, actors: int = 1) -> Record:
    return Record(
        device=device, phase=phase, share=share, parameters=parameters, actors=actors, prompt=10, answer=20,
        data="paddock", source=f"run/{share}",
    )  # fmt: skip


def test_several_records_span_what_was_measured() -> None:
    share = Calibration([record(0.2), record(0.3), record(0.6)]).share(CPU, "update", 100, 1)
    assert (share.low, share.middle, share.high) == (0.2, 0.3, 0.6)
    assert share.measured and share.source == "run/0.2 and 2 more"


def test_one_record_is_no_bare_number() -> None:
    share = Calibration([record(0.4)]).share(CPU, "update", 100, 1)
    assert (share.low, share.high) == pytest.approx((0.4 / SPREAD, 0.4 * SPREAD))


def test_models_of_like_size_count_before_others_and_then_the_number_of_actors() -> None:
    calibration = Calibration([record(0.1, parameters=10_000), record(0.5), record(0.3, actors=2)])
    assert calibration.share(CPU, "update", 200, 1).middle == 0.5
    assert calibration.share(CPU, "update", 200, 4).middle == 0.3
    assert calibration.share(CPU, "update", 10_000, 4).middle == 0.1


def test_a_device_that_was_never_measured_has_a_wide_range_with_its_source() -> None:
    share = Calibration([record(0.4)]).share("H100", "update", 100, 1)
    assert (share.low, share.high, share.measured) == (0.1, 0.5, False)
    assert share.source.startswith("not measured on H100; published MFU of 11 to 36%")


def test_another_cpu_has_the_range_of_measured_ones_widened() -> None:
    share = Calibration([record(0.4)]).share("other, 64 cores", "update", 100, 1)
    assert (share.low, share.high) == pytest.approx((0.4 / SPREAD / WIDENED, 0.4 * SPREAD * WIDENED))
    assert not share.measured
    assert share.source == f"not measured on other, 64 cores; widened from {CPU}: run/0.4"


def test_records_of_the_same_source_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "calibration.json"
    add_records(file, [record(0.4), record(0.5)])
    add_records(file, [record(0.4, phase="generate")])
    assert [(each.share, each.phase) for each in read_records(file)] == [(0.5, "update"), (0.4, "generate")]


def test_records_of_own_runs_come_before_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYALIGN_CACHE", str(tmp_path))
    shipped = load_calibration().records
    assert {each.phase for each in shipped} >= {"generate", "evaluate", "update", "publish", "other"}
    add_records(own_file(), [record(0.4)])
    assert load_calibration().records == (record(0.4), *shipped)
    add_records(own_file(), [record(0.5, device=shipped[0].device)])
    remaining = [each for each in shipped if (each.device, each.phase) != (shipped[0].device, "update")]
    assert load_calibration().records == (record(0.4), record(0.5, device=shipped[0].device), *remaining)


def test_a_broken_file_of_records_is_named(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text('[{"device": "x"}]')
    with pytest.raises(InputError, match="these are no calibration records; remove it and calibrate again"):
        read_records(file)
