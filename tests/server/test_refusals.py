"""Bad requests: each gets its status and a message, the service stays up, nothing is written."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import threading
import time
import weakref

import httpx
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from scanwise.core.errors import ConfigError, ModelError, RunError
from scanwise.server.logs import JsonFormatter
from scanwise.server.service import Service
from scanwise.server.settings import make_settings

from .conftest import files_below, huge_png, png, post, serving

TOKEN = "a-token-that-is-long-enough"


def picture(format: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert(mode).save(file, format, **options)
    return file.getvalue()


def animated_gif() -> bytes:
    frames = [Image.effect_noise((20, 20), 60).convert("P") for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def dicom_without_pixels() -> bytes:
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    header = pydicom.Dataset()
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    header.Rows = header.Columns = 10
    file = io.BytesIO()
    pydicom.dcmwrite(file, header, enforce_file_format=True)
    return file.getvalue()


def bomb() -> bytes:
    """A TIFF of 10x10 px whose strip unpacks to 64 MB."""
    import struct
    import zlib

    strip = zlib.compress(bytes(64_000_000), 9)
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (273, 8 + 2 + 9 * 12 + 4),
            (277, 1), (278, 10), (279, len(strip))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + struct.pack("<I", 0) + strip


GREY = {"photometric": "minisblack"}
REFUSED = {
    "empty": (lambda: b"", 415, "0 bytes"),
    "text.png": (lambda: b"hello, this is no image" * 9, 415, "text"),
    "zip.png": (lambda: b"PK\x03\x04" + bytes(99), 415, "ZIP"),
    "truncated.jpg": (lambda: picture("JPEG")[:-200], 422, "truncated"),
    "truncated.png": (lambda: picture("PNG")[:-30], 422, "truncated"),
    "animated.gif": (animated_gif, 422, "animated"),
    "pages.tif": (lambda: tiff(np.zeros((3, 20, 20), np.uint8), **GREY), 422, "3 pages"),
    "bomb.png": (huge_png, 422, "10000x10000"),
    "bomb.tif": (bomb, 422, "unpacks"),
    "empty.dcm": (dicom_without_pixels, 422, "no pixel data"),
    "five.tif": (
        lambda: tiff(np.zeros((20, 20, 5), np.uint8), planarconfig="contig", **GREY),
        422,
        "channel",
    ),
    "deep.tif": (lambda: tiff(np.arange(600, dtype=np.uint16).reshape(20, 30)), 422, "uint16"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_gets_its_reason(client, name, disc_files):
    make, status, word = REFUSED[name]
    answer = post(client, make(), name)
    assert (answer.status_code, set(answer.json())) == (status, {"error", "detail", "fix"})
    assert word in answer.json()["detail"]
    assert post(client, disc_files[0]).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        picture("JPEG", "L"),
        picture("JPEG", "CMYK"),
        picture("GIF", "L"),
        picture("PNG", "LA"),
        tiff(np.full((20, 20), 9, np.uint8), compression="zlib"),
    ],
    ids=["grey JPEG", "CMYK JPEG", "still GIF", "alpha", "packed TIFF"],
)
def test_odd_files_that_can_be_read_are_answered(client, data):
    answer = post(client, data)
    assert answer.status_code == 200, answer.json()


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        ({"files": {"image": b"x"}}, 400, "wrong_field"),
        ({"files": {"file": b"x", "other": b"y"}}, 413, "too_many_files"),
        ({"files": [("file", b"x"), ("file", b"y")]}, 413, "too_many_files"),
        ({"data": {"file": "text"}}, 400, "wrong_field"),
        ({"files": {"image": b""}, "data": {"file": "text"}}, 400, "wrong_field"),
        ({"content": b"raw bytes"}, 400, "wrong_field"),
        ({}, 400, "wrong_field"),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_form"),
        (
            {"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            400,
            "bad_form",
        ),
    ],
)
def test_a_wrong_form_is_told(client, arguments, status, error):
    answer = client.post("/predict", **arguments)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["fix"]


def test_routes_and_parameters_that_do_not_exist(client, disc_files):
    for answer, status in (
        (client.get("/nothing"), 404),
        (client.get("/predict"), 405),
        (client.delete("/models"), 405),
        (post(client, disc_files[0], topk="many"), 422),
        (post(client, disc_files[0], explain="magic"), 422),
        (post(client, disc_files[0], model="other"), 404),
    ):
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "detail", "fix"}


def test_a_name_is_only_a_name(client, disc_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("../../etc/passwd", "/etc/passwd", "..\\x.png", "a\x00b.png", "ü" * 300):
        answer = post(client, disc_files[0], name)
        assert answer.status_code == 200
    assert not files_below(tmp_path)


def test_too_many_bytes(disc_model, disc_files):
    with serving([disc_model], max_mb=0.1) as http:
        big = disc_files[0] + bytes(300_000)
        stated = post(http, big)
        assert (stated.status_code, stated.json()["error"]) == (413, "too_large")
        # Without content-length: the pieces are counted as they come.
        form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        pieces = iter([form, *[bytes(10_000)] * 100, b"\r\n--x--\r\n"])
        header = {"content-type": "multipart/form-data; boundary=x"}
        chunked = http.post("/predict", content=pieces, headers=header)
        assert (chunked.status_code, chunked.json()["error"]) == (413, "too_large")
        between = post(http, disc_files[0] + bytes(120_000))
        assert (between.status_code, between.json()["error"]) == (413, "too_large")
        long_feedback = http.post("/feedback", content=bytes(20_000))
        assert long_feedback.status_code == 413
        assert "16 kB" in long_feedback.json()["detail"]
        assert "--max-mb" not in long_feedback.json()["fix"]
        assert "more than 0.1 MB" in stated.json()["detail"]  # as --max-mb says it
        assert "--max-mb" in stated.json()["fix"]
        assert post(http, disc_files[0]).status_code == 200
        assert http.app.state.service.uploads.held == 0


def test_too_many_files_and_pixels(disc_model, disc_files):
    with serving([disc_model], max_files=2, max_megapixels=0.01) as http:
        form = [("files", ("x.png", disc_files[0]))] * 3
        answer = http.post("/predict/batch", files=form)
        assert (answer.status_code, answer.json()["error"]) == (413, "too_many_files")
        large = post(http, png(np.zeros((200, 200), np.uint8)))
        assert large.status_code == 422
        assert "0.01 megapixels" in large.json()["detail"]


def slow(bundle, seconds: float):
    """Make the network of a served model slow."""
    plain = bundle.predict_prepared

    def wait(*arguments, **named):
        time.sleep(seconds)
        return plain(*arguments, **named)

    return wait


def test_a_full_queue_says_so(disc_model, disc_files, monkeypatch):
    monkeypatch.setattr(disc_model.bundle, "predict_prepared", slow(disc_model.bundle, 0.3))

    async def all_at_once(url) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            form = {"file": ("x.png", disc_files[0])}
            return await asyncio.gather(*(http.post("/predict", files=form) for _ in range(20)))

    with serving([disc_model], queue=4, batch=2, max_files=4) as http:
        answers = asyncio.run(all_at_once(http.base_url))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}
        assert codes.count(200) >= 4
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert post(http, disc_files[0]).status_code == 200


def test_an_answer_that_takes_too_long(disc_model, disc_files, monkeypatch):
    monkeypatch.setattr(disc_model.bundle, "predict_prepared", slow(disc_model.bundle, 1.0))
    with serving([disc_model], timeout_s=0.3) as http:
        answer = post(http, disc_files[0])
        assert (answer.status_code, answer.json()["error"]) == (504, "timeout")
        time.sleep(1)
        assert http.get("/health").json()["in_progress"] == 0


def test_an_upload_that_takes_too_long(disc_model):
    head = (
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
    )
    with (
        serving([disc_model], timeout_s=0.3) as http,
        socket.create_connection((http.base_url.host, http.base_url.port)) as line,
    ):
        line.sendall(head)
        assert b" 408 " in line.recv(1000)


def test_a_client_that_goes_away_costs_nothing(disc_model, disc_files, monkeypatch):
    asked = []
    plain = disc_model.bundle.predict_prepared

    def counting(samples, prepared, **named):
        asked.append(len(samples))
        time.sleep(0.5)
        return plain(samples, prepared, **named)

    monkeypatch.setattr(disc_model.bundle, "predict_prepared", counting)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body += disc_files[0] + b"\r\n--x--\r\n"
    head = (
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" % len(body)
    )
    with serving([disc_model], batch=1) as http:
        for _ in range(4):  # the first is computed, the others wait behind it
            with socket.create_connection((http.base_url.host, http.base_url.port)) as line:
                line.sendall(head + body)
                time.sleep(0.1)
        time.sleep(0.3)
        assert http.get("/health").json()["in_progress"] == 0
        assert post(http, disc_files[0]).status_code == 200
        assert len(asked) <= 3  # one or two for those that left, one for the last


class Upload(bytearray):
    """Bytes that can be watched."""


def test_what_nobody_waits_for_is_not_held(disc_model, disc_files, monkeypatch):
    """With every decoder at work, the uploads of clients that give up leave the memory."""
    go, prepare = threading.Event(), disc_model.bundle.prepare
    blocked = Upload(disc_files[0])

    def decode(data):
        if isinstance(data, Upload):
            go.wait(20)
        return prepare(bytes(data))

    monkeypatch.setattr(disc_model.bundle, "prepare", decode)

    async def ask() -> tuple[bool, str]:
        service = Service([disc_model], make_settings({}))
        batcher = service.choose(None).batcher
        running = [asyncio.create_task(batcher.answer(blocked)) for _ in range(os.cpu_count() + 2)]
        await asyncio.sleep(0.1)
        late = Upload(disc_files[0])
        seen = weakref.ref(late)
        task = asyncio.create_task(batcher.answer(late))
        await asyncio.sleep(0.1)
        for each in [*running, task]:  # as when they time out
            each.cancel()
        await asyncio.gather(*running, task, return_exceptions=True)
        del late, task, each
        await asyncio.sleep(0.05)  # the loop lets go of what it handed over last
        gc.collect()
        held = seen() is not None
        go.set()
        answer, _ = await batcher.answer(disc_files[0])  # the threads are free again
        await service.close()
        return held, answer.predicted

    held, predicted = asyncio.run(ask())
    assert not held
    assert predicted in ("0", "1")


def test_a_failure_inside_is_a_500_for_its_own_request_only(disc_model, disc_files, monkeypatch):
    plain = disc_model.bundle.predict_prepared

    def sometimes(samples, prepared, **named):
        if any(one[0].max() == 77 for one in prepared):
            raise RuntimeError("a bug that names /a/path")
        return plain(samples, prepared, **named)

    monkeypatch.setattr(disc_model.bundle, "predict_prepared", sometimes)
    form = [("files", ("x.png", disc_files[0]))] * 3
    with serving([disc_model]) as http:
        bad = post(http, png(np.full((16, 16), 77, np.uint8)))
        assert (bad.status_code, bad.json()["error"]) == (500, "internal")
        assert "/a/path" not in bad.text
        assert http.post("/predict/batch", files=form).json()["num_ok"] == 3


# --- Who may ask ---------------------------------------------------------------------------------


def test_a_token_is_asked_of_everything_but_health_and_docs(disc_model, disc_files):
    with serving([disc_model], token=TOKEN) as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                        {"Authorization": "Bearer tökén".encode()}):  # fmt: skip
            answer = http.post("/predict", files={"file": disc_files[0]}, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (401, "wrong_token")
            assert http.get("/models", headers=headers).status_code == 401
            assert http.get("/metrics", headers=headers).status_code == 401
            assert http.get("/nothing", headers=headers).status_code == 401
        assert http.get("/health").status_code == 200
        assert http.get("/docs").status_code == 200
        right = {"Authorization": f"Bearer {TOKEN}"}
        answer = http.post("/predict", files={"file": disc_files[0]}, headers=right)
        assert answer.status_code == 200
        assert http.get("/openapi.json").json()["security"] == [{"token": []}]


def test_foreign_pages_and_names_are_refused(client, disc_files):
    files = {"file": disc_files[0]}
    for headers, error in (
        ({"Origin": "https://evil.example"}, "foreign_page"),
        ({"Origin": "null"}, "foreign_page"),
        ({"Origin": "http://["}, "foreign_page"),
        ({"Host": "evil.example"}, "wrong_host"),
        ({"Host": "127.0.0.1.evil.example:80"}, "wrong_host"),
    ):
        answer = client.post("/predict", files=files, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, error)
    own = str(client.base_url).rstrip("/")
    assert client.post("/predict", files=files, headers={"Origin": own}).status_code == 200


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"host": "0.0.0.0"}, ["token", "SCANWISE_TOKEN"]),
        ({"host": "192.168.1.5"}, ["token"]),
        ({"host": "0.0.0.0", "token": "short"}, ["at least 16"]),
        ({"token": "tökén-that-is-long-enough"}, ["token", "ASCII"]),
        ({"token": f" {TOKEN}"}, ["token", "spaces"]),
        ({"token": f"{TOKEN}\n"}, ["token", "spaces"]),
        ({"max_mb": 0}, ["max_mb"]),
        ({"max_files": 500}, ["max_files", "queue"]),
        ({"timeout_s": -1}, ["timeout_s"]),
        ({"port": 99999}, ["port"]),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, words):
    with pytest.raises(ConfigError) as caught:
        make_settings(values)
    for word in words:
        assert word in str(caught.value)
    assert "short" not in str(caught.value)
    assert "long-enough" not in str(caught.value)


def test_the_token_is_in_no_text_of_the_settings():
    settings = make_settings({"host": "0.0.0.0", "token": TOKEN})
    assert TOKEN not in repr(settings) + str(settings.model_dump())


# --- Feedback and files --------------------------------------------------------------------------


def test_feedback_is_off_by_default(client, disc_files):
    said = post(client, disc_files[0]).json()
    answer = client.post("/feedback", json={"request_id": said["request_id"], "label": "0"})
    assert (answer.status_code, answer.json()["error"]) == (403, "feedback_off")


def test_feedback_and_log_are_lines_without_pixels_or_names(disc_model, disc_files, tmp_path):
    import json

    log, labels = tmp_path / "log.jsonl", tmp_path / "labels.jsonl"
    log.write_text('{"cut off')
    with serving([disc_model], log=log, feedback=labels) as http:
        said = post(http, disc_files[0], "jane-doe.png").json()
        good = http.post("/feedback", json={"request_id": said["request_id"], "label": "1"})
        assert good.json()["agrees"] == (said["predicted"] == "1")
        for body, status in (
            ({"request_id": said["request_id"], "label": "2"}, 422),
            ({"request_id": "0" * 32, "label": "1"}, 404),
            ({"request_id": said["request_id"]}, 422),
            ({"request_id": said["request_id"], "label": "1", "more": 1}, 422),
        ):
            assert http.post("/feedback", json=body).status_code == status
        assert http.post("/feedback", content=b"{").status_code == 422
    line = json.loads(labels.read_text())
    assert (line["request_id"], line["label"]) == (said["request_id"], "1")
    cut, logged = log.read_text().splitlines()
    assert cut == '{"cut off'
    assert json.loads(logged)["probabilities"] == said["probabilities"]
    assert "jane" not in log.read_text() + labels.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "labels.jsonl"}


def test_what_was_not_delivered_is_no_answer(disc_model, disc_files, tmp_path, monkeypatch):
    """A refused explanation, one that fails late, and a batch that times out leave no line."""
    log, labels = tmp_path / "log.jsonl", tmp_path / "labels.jsonl"
    asked = []

    def plain(samples, prepared, **named):
        asked.extend(samples)
        return predict(samples, prepared, **named)

    def last_is_slow(samples, prepared, **named):
        asked.extend(samples)
        if len(asked) > 2:
            time.sleep(1.2)
        return predict(samples, prepared, **named)

    def no_way(*_):
        raise ModelError("no map.")

    predict = disc_model.bundle.predict_prepared
    monkeypatch.setattr(disc_model.bundle, "predict_prepared", plain)
    monkeypatch.setattr("scanwise.server.explaining.find_way", no_way)
    with serving([disc_model], log=log, feedback=labels, timeout_s=1, batch=1) as http:
        file = {"file": ("x.png", disc_files[0])}
        refused = http.post("/explain?class=nosuch", files=file)
        assert (refused.status_code, refused.json()["error"]) == (422, "unknown_class")
        assert not asked  # not even computed
        late = http.post("/explain", files=file)
        assert (late.status_code, late.json()["error"]) == (501, "not_explainable")
        asked.clear()
        monkeypatch.setattr(disc_model.bundle, "predict_prepared", last_is_slow)
        batch = http.post("/predict/batch", files=[("files", ("x.png", disc_files[0]))] * 3)
        assert batch.status_code == 504
        for answer, suffix in ((refused, ""), (late, ""), (batch, ".0")):
            id = answer.headers["x-request-id"] + suffix
            given = http.post("/feedback", json={"request_id": id, "label": "1"})
            assert (given.status_code, given.json()["error"]) == (404, "unknown_request")
        assert 'outcome="ok"' not in http.get("/metrics").text
    assert log.read_text() == ""


def test_names_are_logged_only_when_asked(disc_model, disc_files, caplog):
    for asked in (False, True):
        caplog.clear()
        with caplog.at_level("INFO", "scanwise.server"):
            with serving([disc_model], log_names=asked) as http:
                post(http, disc_files[0], "jane.png")
                http.get("/jane.png")
            text = "".join(JsonFormatter().format(record) for record in caplog.records)
        assert '"route": "/predict"' in text
        assert ("jane" in text) == asked


def test_uploads_are_kept_only_when_asked(disc_model, disc_files, tmp_path):
    with serving([disc_model], keep_images=tmp_path / "kept") as http:
        said = post(http, disc_files[0], "../jane.jpg").json()
    kept = tmp_path / "kept" / f"{said['request_id']}.png"
    assert kept.read_bytes() == disc_files[0]
    assert files_below(tmp_path) == {str(tmp_path / "kept"), str(kept)}


def test_a_file_that_cannot_be_written_stops_the_start(disc_model, tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match="can't write"),
        serving([disc_model], log=tmp_path / "file" / "log"),
    ):
        pass


def test_large_uploads_stay_in_memory(disc_model, monkeypatch):
    import tempfile

    monkeypatch.setattr(
        tempfile.SpooledTemporaryFile, "rollover", lambda self: pytest.fail("written to disk")
    )
    noise = np.random.default_rng(0).integers(0, 256, (1600, 1600), np.uint8)
    with serving([disc_model]) as http:
        assert post(http, png(noise)).status_code == 200  # 2.5 MB; forms spool above 1 MB


# --- Fuzzing -------------------------------------------------------------------------------------


@given(
    data=st.binary(max_size=300),
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"GIF89a",
                          b"RIFF\x10\0\0\0WEBP", b"BM" + bytes(12) + b"\x28\0\0\0",
                          bytes(128) + b"DICM"]),
)  # fmt: skip
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_malformed_uploads_are_refused(client, data, head):
    answer = post(client, head + data)
    assert answer.status_code in (200, 415, 422)
    assert answer.status_code == 200 or set(answer.json()) == {"error", "detail", "fix"}


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 200))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_uploads_never_break_it(client, disc_files, place, value, cut):
    raw = bytearray(picture("JPEG", "L") if place % 2 else disc_files[0])
    raw[place % len(raw)] = value
    assert post(client, bytes(raw[: len(raw) - cut])).status_code in (200, 415, 422)


def test_schemathesis_finds_no_failure(client):
    """Requests made from the OpenAPI, valid and not: no 500, and answers as the document says."""
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    schema.config.update(base_url=str(client.base_url))
    checks = [
        not_a_server_error,
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    ]
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        def attempt(case):
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=checks)

        attempt()
    assert tried >= 7
    assert client.get("/health").status_code == 200
