"""`scanwise serve` as a process, and `scanwise monitor` on its log."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest

from scanwise.cli import main
from scanwise.cli.serve import without_token

from .conftest import png, serving, started

TOKEN = "a-token-that-is-long-enough"


def fails(capsys, *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return int(caught.value.code), capsys.readouterr().err


def test_sigterm_finishes_what_was_accepted_and_the_token_stays_secret(
    disc_run, disc_files, tmp_path
):
    log = tmp_path / "log.jsonl"
    words = [str(disc_run.path), "--log", str(log), "--max-files", "40", "--token", TOKEN]
    form = [("files", ("jane-doe.png", data)) for data in disc_files[:40]]
    right = {"Authorization": f"Bearer {TOKEN}"}
    answers = []
    with started(*words) as (process, url, lines):
        seen = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert TOKEN.encode() not in seen
        assert b"serve" in seen

        def ask() -> None:
            with httpx.Client(base_url=url, timeout=60, headers=right) as http:
                answers.append(http.post("/predict/batch", files=form))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        with httpx.Client(base_url=url) as http:
            assert http.get("/models").status_code == 401
            while http.get("/health").json()["in_progress"] < 80 and not answers:
                pass
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(60)
        assert process.wait(60) == 0
    done = [answer for answer in answers if answer.status_code == 200]
    assert len(done) >= 2
    assert all(answer.json()["num_ok"] == 40 for answer in done)
    assert len(log.read_text().splitlines()) == 40 * len(done)
    assert lines[-1]["event"] == "stopped"
    told = {line["request_id"] for line in lines if line.get("route") == "/predict/batch"}
    assert told >= {answer.headers["x-request-id"] for answer in done}
    assert "jane" not in json.dumps(lines)
    assert TOKEN not in json.dumps(lines) + log.read_text()


def test_the_token_is_taken_out_of_the_words():
    assert without_token(["serve", "x", "--token", "t", "--port", "1"]) == (
        ["serve", "x", "--port", "1"],
        "t",
    )
    assert without_token(["serve", "--token=t"]) == (["serve"], "t")
    assert without_token(["serve", "x"]) is None


def test_a_model_that_does_not_load_ends_the_process(capsys, copied_run, disc_run, tmp_path):
    code, told = fails(capsys, "serve", str(tmp_path))
    assert code == 2
    assert "no bundle" in told
    file = copied_run.bundle / "preprocess.json"
    file.write_text(file.read_text().replace("1", "2", 1))
    code, told = fails(capsys, "serve", str(disc_run.path), f"other={copied_run.path}")
    assert code == 3
    assert "preprocess.json" in told
    code, told = fails(capsys, "serve", str(disc_run.path), "--host", "0.0.0.0")
    assert code == 2
    assert "SCANWISE_TOKEN" in told
    code, told = fails(capsys, "serve", str(disc_run.path), "--queue", "0")
    assert (code, "queue" in told) == (2, True)


def test_a_missing_extra_is_told(disc_run):
    script = (
        "import sys; sys.modules['uvicorn'] = None\n"
        f"from scanwise.cli import main; main(['serve', {str(disc_run.path)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'scanwise[serve]'" in done.stderr


# --- monitor -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(disc_model, discs, tmp_path_factory) -> dict[str, Path]:
    """Answers to validation-like images, and to noisier and brighter ones."""
    folder = tmp_path_factory.mktemp("logs")
    images = np.load(discs)["test_images"]
    odd = np.clip(images.astype(int) // 2 + 120, 0, 255).astype(np.uint8)
    found = {}
    for name, some in (("same", images), ("odd", odd), ("few", images[:10])):
        found[name] = folder / f"{name}.jsonl"
        with serving([disc_model], log=found[name], max_files=100) as http:
            form = [("files", ("x.png", png(image))) for image in some]
            assert http.post("/predict/batch", files=form).json()["num_ok"] == len(some)
    return found


def monitored(capsys, *words: str) -> dict:
    main_words = ["monitor", *words, "--json"]
    with pytest.raises(SystemExit) as caught:
        main(main_words)
    assert not caught.value.code
    return json.loads(capsys.readouterr().out)


def test_images_like_those_of_validation_show_no_drift(capsys, disc_run, logs):
    found = monitored(capsys, str(disc_run.path), str(logs["same"]))
    assert (found["new"]["n"], found["reference"]["n"]) == (80, 80)
    assert [test["verdict"] for test in found["tests"]] == ["no drift shown"] * 4
    assert all(each["new"]["ci95"] for each in found["shares"])


def test_other_images_show_drift(capsys, disc_run, logs):
    found = monitored(capsys, str(disc_run.path), str(logs["odd"]))
    verdicts = {test["what"]: test["verdict"] for test in found["tests"]}
    assert verdicts["unknown-input score"] == "drift"
    assert verdicts["share of unknown inputs"] == "drift"


def test_few_images_are_told_as_few(capsys, disc_run, logs):
    with pytest.raises(SystemExit):
        main(["monitor", str(disc_run.path), str(logs["few"])])
    told = capsys.readouterr().out
    assert "too few images (n=10, 30 are needed)" in told
    assert "Nothing could be tested" in told


def test_other_versions_and_cut_lines_are_left_out(capsys, disc_run, logs, tmp_path):
    lines = logs["same"].read_text().splitlines()
    other = json.loads(lines[0]) | {"sha256": "0" * 64}
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join([json.dumps(other), *lines, '{"time": "cut']))
    found = monitored(capsys, str(disc_run.path), str(mixed))
    assert found["new"]["n"] == 80
    assert found["left_out"] == {"lines_of_other_models": 1, "cut_lines": 1}
    assert monitored(capsys, str(disc_run.path), str(mixed), "--any-version")["new"]["n"] == 81


def test_what_is_no_log_is_refused(capsys, disc_run, tmp_path):
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"probabilities": {"0": 7}}\n')
    code, told = fails(capsys, "monitor", str(disc_run.path), str(odd))
    assert code == 2
    assert "odd.jsonl line 1" in told
    code, told = fails(capsys, "monitor", str(disc_run.path), str(tmp_path / "none"))
    assert (code, "can't read the log" in told) == (2, True)
    odd.write_text("")
    code, told = fails(capsys, "monitor", str(disc_run.path), str(odd))
    assert (code, "no line" in told) == (2, True)
