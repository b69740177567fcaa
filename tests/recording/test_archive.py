"""The recorded form of a study: what it keeps, that it is made whole or not at all, that nobody trains on it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import edit, write_study

from common.recording import archive as archiving
from common.recording import schema
from common.recording.archive import archive, main
from common.recording.results import load_study
from common.recording.store import ResultsStore, StoreError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_rewards_lose_rows(tmp_path: Path) -> None:
    folder = write_study(tmp_path, diverges=lambda seed, actor, critic: 7 if actor == critic == 0.1 else None)
    before = load_study(folder)
    main([str(folder)])
    after = load_study(folder)
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.gz" if name in schema.PACKED else name for name in schema.FILES
    }
    kept = before.rewards[before.rewards["episode"] % 10 == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(after.rewards, kept)
    for name in {name.removesuffix(".csv") for name in schema.FILES} - {"rewards"}:
        pd.testing.assert_frame_equal(getattr(after, name), getattr(before, name))


def test_same_rows_same_bytes_at_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (write_study(tmp_path / place, episodes=20) for place in ("a", "b"))
    archive(first)
    monkeypatch.setattr("time.time", lambda: 1e9)
    archive(second)
    assert contents(first) == contents(second)
    archive(first)  # again
    assert contents(first) == contents(second)


def test_interrupted_and_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, folder = (write_study(tmp_path / place, episodes=20) for place in ("a", "b"))
    archive(whole)
    written = archiving.write_atomically
    for at, after in itertools.product(schema.PACKED, (False, True)):

        def fail(path: Path, data: bytes, at: str = at, after: bool = after) -> None:
            if after or not path.name.startswith(at):
                written(path, data)
            if path.name.startswith(at):
                raise OSError("no more")

        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(archiving, "write_atomically", fail)
            archive(folder)
        assert all((folder / name).exists() or (folder / f"{name}.gz").exists() for name in schema.PACKED)
    archive(folder)
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("what", ["damaged", "locked", "in training", "absent"])
def test_a_folder_that_is_no_finished_study_stays_as_it_is(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_study(tmp_path, episodes=20)
    if what == "damaged":
        edit(folder / schema.REWARDS, lambda text: text[:-3])
    elif what == "locked":
        (folder / ".lock.json").touch()
    elif what == "in training":
        (folder / "checkpoint").mkdir()
    asked = folder / "absent" if what == "absent" else folder
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as left:
        main([str(asked)])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and str(asked) in line and sorted(folder.iterdir()) == before


def test_a_recorded_table_survives_another_one_beside_it(tmp_path: Path) -> None:
    folder = write_study(tmp_path, episodes=20)
    archive(folder)
    (folder / schema.SATURATION).write_text("seed,episode\n42,")
    before = contents(folder)
    with pytest.raises(SystemExit) as left:
        main([str(folder)])
    assert left.value.code == 2 and contents(folder) == before


def test_nobody_trains_on_it(tmp_path: Path) -> None:
    folder = write_study(tmp_path, episodes=20)
    archive(folder)
    before = contents(folder)
    with pytest.raises(StoreError, match=r"csv\.gz"):
        ResultsStore(folder, "baseline", {}, defaults={})
    assert contents(folder) == before
