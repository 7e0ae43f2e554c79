"""Published weights: found and verified, read without running code, loaded strictly."""

from __future__ import annotations

import functools
import gc
import hashlib
import http.server
import json
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scanwise.cli import main
from scanwise.core.errors import ModelError, WeightsError
from scanwise.models.build import build_model
from scanwise.models.published_keys import PUBLISHED_NAMES
from scanwise.models.weights import (
    PUBLISHED,
    PublishedWeights,
    find_published,
    load_published,
    read_state,
    weights_file,
)

CONTENT = b"weights" * 5000
NAME = "resnet18.imagenet"


# --- names --------------------------------------------------------------------------------------


def test_every_entry_can_be_loaded_and_says_where_it_is_from():
    for name, entry in PUBLISHED.items():
        assert name == entry.name == f"{entry.architecture}.imagenet"
        assert entry.architecture in PUBLISHED_NAMES
        assert entry.url.startswith("https://download.pytorch.org/models/")
        # torch.hub verifies the digits in the name of the file; ours must begin with them.
        assert entry.sha256[:8] == entry.file_name.removesuffix(".pth")[-8:]
        assert len(entry.sha256) in {8, 64}
        assert entry.licence
        assert "arXiv:" in entry.citation


@pytest.mark.parametrize("word", ["resnet18.imagenet", "imagenet", "resnet18", " ImageNet "])
def test_a_name_has_short_forms(word):
    assert find_published(word, "resnet18") is PUBLISHED[NAME]


@pytest.mark.parametrize(
    ("word", "architecture", "said"),
    [
        ("resnet19.imagenet", None, ["resnet18.imagenet"]),
        ("imagenet", "small_resnet", ["small_resnet", "resnet18.imagenet"]),
        ("resnet50.imagenet", "resnet18", ["are of resnet50, not of resnet18"]),
        ("absent.pth", "resnet18", ["absent.pth does not exist", "resnet18.imagenet"]),
        ("no/such/file", "resnet18", ["does not exist"]),
    ],
)
def test_an_unknown_name_is_refused_with_a_way_out(word, architecture, said):
    with pytest.raises(ModelError) as caught:
        weights_file(word, architecture) if architecture else find_published(word)
    assert caught.value.exit_code == 2
    for part in said:
        assert part in str(caught.value)


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path: Path):
    for name in ("a.pth", "b.pt", "c.safetensors"):
        (tmp_path / name).write_bytes(b"x")
        assert weights_file(str(tmp_path / name), "resnet18") == tmp_path / name
    (tmp_path / "d.h5").write_bytes(b"x")
    for name, said in (("d.h5", ".safetensors"), (".", "is a folder")):
        with pytest.raises(WeightsError, match=said):
            weights_file(str(tmp_path / name), "resnet18")


def test_a_file_for_tensorflow_padding_is_refused(tmp_path: Path):
    (tmp_path / "tf_efficientnet_b0-0af12548.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match="outputs would be wrong"):
        weights_file(str(tmp_path / "tf_efficientnet_b0-0af12548.pth"), "efficientnet_b0")


# --- downloads, from a server on this machine ---------------------------------------------------


class Service(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `cut.pth` promises more bytes than come."""

    requests = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        type(self).requests += 1
        if not self.path.endswith("cut.pth"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000])


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and leave to use the network (of this machine); the folder of the weights."""
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SCANWISE_OFFLINE", "0")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "good.pth").write_bytes(CONTENT)
    (folder / "other.pth").write_bytes(CONTENT[:-1] + b"x")
    (folder / "short.pth").write_bytes(CONTENT[:1000])
    Service.requests = 0
    handler = functools.partial(Service, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()
        thread.join()
    with warnings.catch_warnings():  # pooch leaves the sockets of refused answers to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def publish(monkeypatch: pytest.MonkeyPatch, url: str, digits: int = 64) -> PublishedWeights:
    digest = hashlib.sha256(CONTENT).hexdigest()[:digits]
    entry = replace(PUBLISHED[NAME], url=url, sha256=digest)
    monkeypatch.setitem(PUBLISHED, NAME, entry)
    return entry


def files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.rglob("*") if entry.is_file())


@pytest.mark.parametrize("digits", [64, 8])
def test_weights_are_downloaded_once(online, server, monkeypatch, digits):
    publish(monkeypatch, f"{server}/good.pth", digits)
    path = weights_file("imagenet", "resnet18")
    assert path == online / "good.pth"
    assert path.read_bytes() == CONTENT
    monkeypatch.setenv("SCANWISE_OFFLINE", "1")
    assert weights_file(NAME, "resnet18") == path
    assert Service.requests == 1
    assert files(online) == ["good.pth", "good.sha256"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("other.pth", "another SHA-256 than the official one and was deleted"),
        ("short.pth", "another SHA-256 than the official one and was deleted"),
        ("cut.pth", "can't download"),
        ("absent.pth", "404"),
    ],
)
def test_a_bad_download_leaves_nothing_and_says_what_to_do(online, server, monkeypatch, file, said):
    entry = publish(monkeypatch, f"{server}/{file}")
    with pytest.raises(WeightsError) as caught:
        weights_file("imagenet", "resnet18")
    assert said in str(caught.value)
    for part in (entry.url, entry.sha256, str(online / file)):
        assert part in str(caught.value)
    assert not files(online.parent)


def test_offline_never_asks_the_network(online, server, monkeypatch):
    entry = publish(monkeypatch, f"{server}/good.pth", digits=8)
    monkeypatch.setenv("SCANWISE_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        weights_file("imagenet", "resnet18")
    for part in ("SCANWISE_OFFLINE", entry.url, f"starting {entry.sha256}", str(online)):
        assert part in str(caught.value)
    assert Service.requests == 0


def test_a_damaged_file_in_the_cache_is_not_used(online, server, monkeypatch):
    publish(monkeypatch, f"{server}/good.pth")
    online.mkdir(parents=True)
    (online / "good.pth").write_bytes(b"half a file")
    monkeypatch.setenv("SCANWISE_OFFLINE", "1")
    with pytest.raises(WeightsError, match="is not the official weights file"):
        weights_file("imagenet", "resnet18")
    monkeypatch.setenv("SCANWISE_OFFLINE", "0")
    assert weights_file("imagenet", "resnet18").read_bytes() == CONTENT


def test_a_file_put_by_hand_is_verified_and_used(online, monkeypatch):
    publish(monkeypatch, "https://example.invalid/good.pth")
    monkeypatch.setenv("SCANWISE_OFFLINE", "1")
    online.mkdir(parents=True)
    (online / "good.pth").write_bytes(CONTENT)
    assert weights_file("imagenet", "resnet18") == online / "good.pth"


# --- the command line ---------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["weights", *words])
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


def test_pull_path_and_list(online, server, monkeypatch, capsys):
    entry = publish(monkeypatch, f"{server}/good.pth")
    code, _, error = command(capsys, "path", NAME)
    assert code == 2
    for part in ("scanwise weights pull resnet18.imagenet", entry.url, str(online / "good.pth")):
        assert part in error
    assert Service.requests == 0
    assert command(capsys, "pull", "resnet18")[:2] == (0, f"{online / 'good.pth'}\n")
    assert command(capsys, "path", NAME)[:2] == (0, f"{online / 'good.pth'}\n")
    code, table, _ = command(capsys, "list")
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert code == 0
    assert set(rows) == {"name", *PUBLISHED}
    assert rows[NAME].endswith("yes")
    assert rows["resnet50.imagenet"].endswith("no")
    assert "BSD-3-Clause" in rows[NAME]
    machine = {row["name"]: row for row in json.loads(command(capsys, "list", "--json")[1])}
    assert machine[NAME]["cache"] == "verified"
    assert machine[NAME]["path"] == str(online / "good.pth")
    assert machine["densenet121.imagenet"]["cache"] == "missing"
    (online / "good.pth").write_bytes(b"short")
    assert "damaged" in command(capsys, "list")[1]
    assert "damaged" in command(capsys, "path", NAME)[2]


@pytest.mark.parametrize("verb", ["pull", "path"])
def test_a_wrong_name_or_no_network_ends_with_code_2(online, monkeypatch, capsys, verb):
    monkeypatch.setenv("SCANWISE_OFFLINE", "1")
    code, out, error = command(capsys, verb, "resnet81")
    assert (code, out) == (2, "")
    assert "resnet18.imagenet" in error
    code, out, error = command(capsys, verb, "efficientnet_b0")
    assert (code, out) == (2, "")
    assert PUBLISHED["efficientnet_b0.imagenet"].sha256 in error


def test_listing_loads_no_torch():
    code = (
        "import sys\nfrom scanwise.cli import main\n"
        "try: main(['weights', 'list'])\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


# --- reading ------------------------------------------------------------------------------------


def small_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "pt", "old"])
def test_all_formats_give_the_same_tensors(tmp_path: Path, kind, wrap):
    state = small_state()
    path = tmp_path / f"w.{'pth' if kind == 'old' else kind}"
    if kind == "safetensors":
        save_file({f"module.{k}": t for k, t in state.items()} if wrap else state, path)
    else:
        content = {wrap: state, "epoch": 3} if wrap else state
        torch.save(content, path, _use_new_zipfile_serialization=kind != "old")
    read = read_state(path)
    assert set(read) == set(state)
    for name, tensor in read.items():
        assert torch.equal(tensor, state[name])


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path):
    mark = tmp_path / "ran"
    torch.save({"state_dict": small_state(), "extra": Trap(mark)}, tmp_path / "a.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "b.pt")
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Trap(mark)))
    for name in ("a.pth", "b.pt", "c.pth"):
        with pytest.raises(WeightsError, match=r"run any code|damaged") as caught:
            read_state(tmp_path / name)
        if name != "c.pth":
            assert "save_file" in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["safetensors", "pth", "old"])
@pytest.mark.parametrize("how", ["cut", "empty", "html"])
def test_a_damaged_file_is_said_to_be(tmp_path: Path, kind, how):
    path = tmp_path / f"w.{'pth' if kind == 'old' else kind}"
    if kind == "safetensors":
        save_file(small_state(), path)
    else:
        torch.save(small_state(), path, _use_new_zipfile_serialization=kind != "old")
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-300], "empty": b"", "html": b"<html>404</html>"}[how])
    with pytest.raises(WeightsError, match="is damaged"):
        read_state(path)


@pytest.mark.parametrize(
    ("content", "said"), [({"a": 1, "b": "c"}, "more than tensors: 'a', 'b'"), ([1], "a list")]
)
def test_what_is_no_state_is_refused(tmp_path: Path, content, said):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=said):
        read_state(tmp_path / "w.pth")


# --- loading ------------------------------------------------------------------------------------


def ours(architecture: str, **options) -> nn.Module:
    wanted = {"num_outputs": 3, "channels": 3, "size_px": (28, 28), "published": True}
    return build_model(architecture, **{**wanted, **options})


def torchvision_name(architecture: str, name: str) -> str:
    """What torchvision calls a parameter of our body; the tests in tests_timm use the real ones."""
    if architecture.startswith("resnet"):
        return name
    if architecture == "densenet121":
        return f"features.{name.replace('.layers.', '.')}"
    first, *parts = name.split(".")
    numbers = {"conv": "0", "norm": "1", "reduce": "fc1", "expand": "fc2"}
    if not first.startswith("stage"):
        return ".".join([f"features.{0 if first == 'stem' else 8}", numbers[parts[0]], parts[1]])
    stage, block = first.removeprefix("stage").split("_")
    order = ["expand", "depthwise", "attention", "project"][1 if stage == "1" else 0 :]
    tail = [str(order.index(parts[0])), numbers[parts[1]], parts[2]]
    return ".".join([f"features.{stage}.{int(block) - 1}.block", *tail])


def published_state(architecture: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    classifier = {"resnet18": "fc", "resnet50": "fc", "densenet121": "classifier"}
    head = classifier.get(architecture, "classifier.1")
    state = {
        torchvision_name(architecture, name): torch.rand_like(tensor)
        if tensor.is_floating_point()
        else tensor + 7
        for name, tensor in ours(architecture).body.state_dict().items()
    }
    return {**state, f"{head}.weight": torch.rand(1000, 9), f"{head}.bias": torch.rand(1000)}


@pytest.mark.parametrize("architecture", [*PUBLISHED_NAMES])
def test_every_parameter_finds_its_place(architecture):
    model, state = ours(architecture), published_state(architecture)
    head = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    load_published(model, state, architecture)
    for name, tensor in model.body.state_dict().items():
        assert torch.equal(tensor, state[torchvision_name(architecture, name)])
    for name, tensor in model.head.state_dict().items():
        assert torch.equal(tensor, head[name])


def test_counts_of_batches_may_be_missing():
    state = published_state("resnet18")
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    model = ours("resnet18")
    load_published(model, old, "resnet18")
    assert int(model.body.bn1.num_batches_tracked) == 0
    assert torch.equal(model.body.bn1.running_mean, state["bn1.running_mean"])


@pytest.mark.parametrize(
    ("architecture", "of", "said"),
    [
        ("efficientnet_b0", "resnet18", ["it has no 'conv1.weight'", "'stem.conv.weight'"]),
        ("resnet18", "efficientnet_b0", ["'features.0.0.weight'", "'conv1.weight'", "missing"]),
        ("resnet18", "resnet50", ["'layer1.0.conv1.weight' is (64, 64, 1, 1)", "(64, 64, 3, 3)"]),
        ("densenet121", "resnet18", ["it has no 'conv1.weight'", "and"]),
        ("small_resnet", "resnet18", ["small_resnet can't load", "efficientnet_b0"]),
    ],
)
def test_weights_of_another_architecture_name_what_differs(architecture, of, said):
    model = ours("resnet18" if architecture == "small_resnet" else architecture)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_published(model, published_state(of), architecture)
    for part in said:
        assert part in str(caught.value)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_one_missing_one_unknown_and_one_infinite_parameter_are_each_refused():
    state, name = published_state("resnet18"), "layer4.1.conv2.weight"
    lost = {key: tensor for key, tensor in state.items() if key != name}
    for wrong, said in (
        (lost, "missing"),
        ({**state, "extra.weight": torch.zeros(1)}, "it has no 'extra.weight'"),
        ({**state, name: state[name] / 0}, "not finite"),
    ):
        with pytest.raises(WeightsError, match=said):
            load_published(ours("resnet18"), wrong, "resnet18")


def test_published_networks_keep_stem_and_strides_at_any_size():
    model = ours("efficientnet_b0")
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {layer.eps for layer in norms} == {1e-5}
    assert model.body.stem.conv.stride == (2, 2)
    assert ours("resnet18").body.conv1.kernel_size == (7, 7)
    assert "pool0" in dict(ours("densenet121").body.named_children())
    plain = ours("efficientnet_b0", published=False)
    assert {m.eps for m in plain.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert plain.body.stem.conv.stride == (1, 1)


def test_published_networks_take_three_channels():
    with pytest.raises(ModelError, match="3 channels, got 1"):
        ours("resnet18", channels=1)
