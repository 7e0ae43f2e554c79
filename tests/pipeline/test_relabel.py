"""Decisions about labels: what is written, what is refused, and that nothing is done twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanwise.cli import main
from scanwise.core.errors import DataError, RunError
from scanwise.core.types import Dataset
from scanwise.data.load import load
from scanwise.pipeline.label_journal import journal_text, read_journal
from scanwise.pipeline.relabel import Applied, Conflict, apply_decisions


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 12), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Class folders ill (6) and well (6); the current folder is above them."""
    for number in range(6):
        write_image(tmp_path / "cells" / "ill" / f"p{number}.png", number)
        write_image(tmp_path / "cells" / "well" / f"p{number + 6}.png", number + 6)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cells"


def decide(*lines: str, header: str = "path,label,reason") -> Path:
    file = Path("decisions.csv")
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


def apply(source: str, file: Path, **more) -> Applied:
    return apply_decisions(load(source), source, file, by="Ann", **more)


def labels(dataset: Dataset) -> dict[str, str]:
    return {
        Path(name).name: dataset.class_names[target]
        for name, target in zip(dataset.sample_ids, dataset.targets, strict=True)
    }


def test_a_new_version_holds_all_images_and_the_old_files_stay(cells: Path) -> None:
    before = sorted(path.relative_to(cells) for path in cells.rglob("*"))
    done = apply("cells", decide("ill/p1.png,well,scar", "well/p7.png,well,"))
    assert done.file == Path("cells-labels/labels_v2.csv")
    again = load(done.file)
    assert len(again) == 12
    assert labels(again) == labels(load("cells")) | {"p1.png": "well"}
    assert sorted(path.relative_to(cells) for path in cells.rglob("*")) == before
    first, second = read_journal(done.folder)
    assert (first.who, first.path, first.old, first.new) == (
        "Ann", "../cells/ill/p1.png", "ill", "well",
    )  # fmt: skip
    assert (first.reason, first.version) == ("scar", "2")
    assert (second.old, second.new) == ("well", "well")  # looked at and kept


def test_applying_twice_is_nothing_and_says_so(cells: Path) -> None:
    file = decide("ill/p1.png,well,")
    apply("cells", file)
    files = {path: path.read_bytes() for path in Path("cells-labels").iterdir()}
    for source in ("cells", "cells-labels/labels_v2.csv"):
        done = apply(source, file)
        assert (done.changed, done.kept, done.already) == ((), (), 1)
        assert "nothing to do" in done.text()
    assert {path: path.read_bytes() for path in Path("cells-labels").iterdir()} == files


def test_versions_build_on_the_journal_whatever_version_is_named(cells: Path) -> None:
    apply("cells", decide("ill/p1.png,well,"))
    done = apply("cells", decide("ill/p2.png,well,"))  # named as delivered, not version 2
    assert done.file.name == "labels_v3.csv"
    both = labels(load("cells-labels/labels_v3.csv"))
    assert (both["p1.png"], both["p2.png"]) == ("well", "well")
    done = apply("cells-labels/labels_v2.csv", decide("ill/p3.png,well,"))
    assert done.folder == Path("cells-labels")
    last = labels(load("cells-labels/labels_v4.csv"))
    assert [last[f"p{i}.png"] for i in range(4)] == ["ill", "well", "well", "well"]


def test_a_missing_version_is_made_again_from_the_journal(cells: Path) -> None:
    file = decide("ill/p1.png,well,")
    done = apply("cells", file)
    text = done.file.read_text()
    done.file.unlink()  # as if the process had died between the journal and the labels
    again = apply("cells", file)
    assert again.rewritten
    assert done.file.read_text() == text


def test_unknown_paths_and_classes_are_named_with_the_nearest(cells: Path) -> None:
    with pytest.raises(DataError) as caught:
        apply("cells", decide("ill/p11.png,well,", "ill/p1.png,wel,"))
    assert "line 2: no image 'ill/p11.png'; did you mean 'well/p11.png'?" in str(caught.value)
    assert "line 3: no class 'wel'; did you mean 'well'?" in str(caught.value)
    assert not Path("cells-labels").exists()


def test_two_answers_in_a_file_are_refused_and_nothing_is_written(cells: Path) -> None:
    with pytest.raises(DataError, match=r"p1.png: 'well' and 'ill'"):
        apply("cells", decide("ill/p1.png,well,", "ill/p1.png,ill,", "ill/p2.png,well,"))
    assert not Path("cells-labels").exists()


def test_against_the_journal_one_is_asked_again(cells: Path) -> None:
    apply("cells", decide("ill/p1.png,well,"))
    back = decide("p1.png,ill,second look")  # the end of a path is enough where it is unique
    with pytest.raises(DataError, match="now 'ill', 'well' by Ann"):
        apply("cells", back)
    asked: list[Conflict] = []

    def keep(conflict: Conflict) -> str:
        asked.append(conflict)
        return "well"

    assert apply("cells", back, ask=keep).changed == ()
    assert len(asked) == 1
    done = apply("cells", back, overrule=True)
    assert [(entry.old, entry.new) for entry in done.changed] == [("well", "ill")]
    assert labels(load(done.file)) == labels(load("cells"))
    assert len(read_journal(done.folder)) == 2  # nothing is ever taken out


def test_a_suspects_file_with_decisions_works(cells: Path) -> None:
    header = "rank,sample,path,given,suggested,score,decision,reason"
    file = decide(
        "1,ill/p1.png,ill/p1.png,ill,well,0.1,well,",
        "2,ill/p2.png,ill/p2.png,ill,well,0.2,,",
        header=header,
    )
    done = apply("cells", file)
    assert (len(done.changed), done.undecided) == (1, 1)
    with pytest.raises(DataError, match="holds no decision"):
        apply("cells", decide("2,a,b,ill,well,0.2,,", header=header))


def test_group_split_weight_and_other_columns_are_kept(cells: Path) -> None:
    rows = [
        f"{path.as_posix()},{path.parent.name},{'train' if i % 3 else 'test'},g{i},{i + 1},m{i}"
        for i, path in enumerate(sorted(Path("cells").rglob("*.png")))
    ]
    Path("m.csv").write_text("\n".join(["path,label,split,group,weight,age", *rows]))
    done = apply("m.csv", decide("cells/ill/p1.png,well,"))
    old, new = load("m.csv"), load(done.file)
    assert new.groups == old.groups
    np.testing.assert_array_equal(new.given_split, old.given_split)  # type: ignore[arg-type]
    np.testing.assert_array_equal(new.weights, old.weights)  # type: ignore[arg-type]
    assert new.metadata == old.metadata


def test_several_labels_stay_several(cells: Path) -> None:
    names = sorted(path.as_posix() for path in Path("cells").rglob("*.png"))
    kinds = ["a|b", "a", "", "b"] * 3
    Path("many.csv").write_text(
        "\n".join(["path,label", *map(",".join, zip(names, kinds, strict=True))])
    )
    done = apply("many.csv", decide(f"{names[0]},-,", f"{names[1]},b|a,"))
    new = load(done.file)
    assert new.task == "multilabel"
    np.testing.assert_array_equal(new.targets[:4], [[0, 0], [1, 1], [0, 0], [0, 1]])


def test_labels_changed_by_hand_are_noticed(cells: Path) -> None:
    done = apply("cells", decide("ill/p1.png,well,"))
    done.folder.joinpath("journal.csv").write_text(
        done.folder.joinpath("journal.csv").read_text().replace("ill,well", "sick,well")
    )
    with pytest.raises(DataError, match="changed outside the journal"):
        apply("cells", decide("ill/p2.png,well,"))


def test_arrays_have_no_files_to_list(cells: Path) -> None:
    with pytest.raises(DataError, match="holds arrays"):
        apply("demo:cells?n=80", decide("ill/p1.png,well,"))


def test_the_command_line_from_decisions_to_journal(
    cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(decide("ill/p1.png,well,scar"))
    with pytest.raises(SystemExit) as ended:
        main(["relabel", "apply", file, "--data", "cells", "--by", "Bo"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit):
        main(["relabel", "journal", "cells-labels"])
    out = capsys.readouterr().out
    assert "1 label changed, 0 kept" in out
    assert "1 decision about 1 image" in out
    assert "Bo" in out
    with pytest.raises(RunError, match="holds no journal"):
        journal_text(Path("nowhere"))
    with pytest.raises(SystemExit) as ended:
        main(["relabel", "apply", str(decide("ill/p1.png,ill,")), "--data", "cells"])
    assert ended.value.code == 2
