"""Tests of upernet.inference.inputs, web and streaming: photos of every kind, and many of them."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.painted_network import PaintedNetwork, four_quarters, paint
from PIL import Image

from upernet.errors import UpernetError
from upernet.inference import Parse, Parser, web
from upernet.models import UPerNet

PHOTO = paint(four_quarters(), materials=1)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    return file.getvalue()


def test_bytes_and_open_files(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    for content in (png(), bytearray(png()), io.BytesIO(png())):
        parse = parser(cast(bytes, content), ["object"])
        np.testing.assert_array_equal(parse.object.labels, four_quarters())
        assert parse.path is None
    with open(tmp_path / "photo.png", "rb") as file:
        assert parser(file, ["object"]).path == str(tmp_path / "photo.png")


def test_files_that_cannot_be_read(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    with open(tmp_path / "photo.png", encoding="latin-1") as file, pytest.raises(UpernetError, match="mode 'rb'"):
        parser(cast(Any, file))
    with open(tmp_path / "photo.png", "rb") as file:
        pass
    with pytest.raises(UpernetError, match=r"photo\.png: cannot be read"):
        parser(file)
    with pytest.raises(UpernetError, match="the image: not an image"):
        parser(b"no image")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors(parser: Parser, dtype: torch.dtype) -> None:
    values = torch.from_numpy(PHOTO).permute(2, 0, 1)
    tensor = values if dtype == torch.uint8 else (values / 255).to(dtype)
    np.testing.assert_array_equal(parser(tensor, ["object"]).object.labels, four_quarters())


def test_arrays_of_floats(parser: Parser) -> None:
    np.testing.assert_array_equal(parser(PHOTO / 255, ["object"]).object.labels, four_quarters())


@pytest.mark.parametrize(
    ("tensor", "fix"),
    [
        (torch.zeros(8, 8, 3), r"tensor.permute\(2, 0, 1\)"),
        (torch.zeros(1, 8, 8), r"tensor.expand\(3, -1, -1\)"),
        (torch.zeros(8, 8), "3 x H x W"),
        (torch.randn(3, 8, 8) - 3, "before it is normalized"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "must be uint8"),
        (torch.zeros(3, 0, 8), "at least one pixel"),
        (torch.zeros(3, 8, 8).to_sparse(), "sparse or has no data"),
        (torch.zeros(3, 8, 8, device="meta"), "sparse or has no data"),
    ],
)
def test_tensors_of_other_kinds_are_refused_with_the_fix(parser: Parser, tensor: torch.Tensor, fix: str) -> None:
    with pytest.raises(UpernetError, match=fix):
        parser(tensor)


def test_several_photos_give_a_list(parser: Parser) -> None:
    other = np.zeros_like(PHOTO)
    batch = np.stack([PHOTO, other])
    for photos in ([PHOTO, Image.fromarray(other)], (PHOTO, other), batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        parses = parser(cast(Any, photos), ["object"])
        assert [parse.object.share("sky") for parse in parses] == [0.25, 1.0]
    assert parser([]) == []


def test_probabilities_agree_with_labels_and_confidence() -> None:
    parser = Parser(cast(UPerNet, PaintedNetwork(sharpness=0.1)), {"short_side": 32})
    photo = paint(four_quarters(), parts=np.where(four_quarters() >= 2, 1, 0))
    parse = parser(photo, probabilities=True)
    for level, label_map in parse.maps.items():
        probabilities = label_map.probabilities
        assert probabilities.dtype == np.float16
        assert probabilities.shape == (len(label_map.names), 64, 96)
        chosen = np.take_along_axis(probabilities, label_map.labels[None].astype(int), axis=0)[0]
        inside = np.zeros((64, 96), bool)  # labels of objects and parts follow the edges of the photo; these do not
        inside[:24, :40] = inside[:24, 56:] = inside[40:, :40] = inside[40:, 56:] = True
        where = inside if level in ("object", "part") else np.ones_like(inside)
        np.testing.assert_allclose(chosen[where], label_map.confidence[where], atol=1e-3)
        if level != "part":
            np.testing.assert_allclose(probabilities.astype(float).sum(axis=0), 1, atol=5e-3)
            np.testing.assert_array_equal(chosen[where], probabilities.max(axis=0)[where])
        assert label_map.probabilities is probabilities
    with pytest.raises(UpernetError, match="probabilities=True"):
        _ = parser(photo, ["object"]).object.probabilities


def test_numbers_that_are_not_finite_are_an_error(parser: Parser) -> None:
    class Overflowing(PaintedNetwork):
        def forward(self, images: torch.Tensor, levels: Any) -> dict[str, torch.Tensor]:
            return {level: logits * float("inf") for level, logits in super().forward(images, levels).items()}

    for level in ("scene", "object"):
        with pytest.raises(UpernetError, match="numbers that are not finite"):
            Parser(cast(UPerNet, Overflowing()))(PHOTO, [level])


def test_the_repr_of_a_parser(parser: Parser) -> None:
    assert repr(parser) == "<Parser painted on cpu: scene, object, part, material>"
    card = {"name": "a\x1b[2J", "short_side": 64}
    assert repr(Parser(cast(UPerNet, PaintedNetwork()), card)).startswith(r"<Parser a\x1b[2J on cpu, short side 64: ")


def test_a_stream_is_in_order_and_saves(parser: Parser, tmp_path: Path) -> None:
    photos = [paint(np.full((8, 8 + number), number % 4)) for number in range(9)]
    parses = list(parser.stream(photos, ["object"], out=tmp_path / "out", kinds=["json"]))
    assert [parse.photo.width for parse in parses] == list(range(8, 17))
    folders = ["photo", *(f"photo-{number}" for number in range(2, 10))]
    assert [parse.folder and parse.folder.name for parse in parses] == folders
    assert {file.name for file in (tmp_path / "out").rglob("*.*")} == {"parse.json"}


def test_a_stream_takes_photos_only_as_they_are_needed(parser: Parser) -> None:
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(len(taken))
            yield PHOTO

    stream = parser.stream(endless(), ["object"])
    assert not taken
    for _ in range(5):
        next(stream)
    assert len(taken) <= 5 + 6
    before = threading.active_count()
    cast(Any, stream).close()
    assert threading.active_count() < before


def test_a_stream_of_one_photo_asks_for_a_list(parser: Parser, tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    photos: list[Any] = ["photo.jpg", tmp_path / "photo.jpg", b"photo", image, np.asarray(image), io.BytesIO()]
    for photo in photos:
        with pytest.raises(UpernetError, match=r"pass a list: \[photo\]"):
            list(parser.stream(photo))


def test_errors_of_a_stream(parser: Parser, tmp_path: Path) -> None:
    photos = [PHOTO, tmp_path / "missing.jpg", PHOTO]
    seen: list[Any] = []
    parses = list(parser.stream(photos, ["object"], on_error=lambda photo, error: seen.append((photo, error))))
    assert len(parses) == 2
    ((photo, error),) = seen
    assert photo == tmp_path / "missing.jpg" and "no such file" in str(error)
    stream = parser.stream(photos, ["object"])
    assert isinstance(next(stream), Parse)
    with pytest.raises(UpernetError, match="no such file"):
        next(stream)


def test_a_stream_reports_what_cannot_be_saved(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UpernetError, match="cannot be written"):
        list(parser.stream([PHOTO], ["object"], out=tmp_path / "file"))
    with pytest.raises(UpernetError, match="it has scene, object"):
        next(parser.stream([PHOTO], ["texture"]))
    with pytest.raises(UpernetError, match="'labls' cannot be saved"):
        next(parser.stream([PHOTO], kinds=["labls"]))


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], str]]:
    """Start a web server with this answer to every request, and return its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def test_photos_from_the_web(parser: Parser, serve: Serve, tmp_path: Path) -> None:
    address = serve(lambda handler: send(handler, 200, png())) + "/a/my%20cat.png?size=3"
    parse = parser(address, ["object"])
    np.testing.assert_array_equal(parse.object.labels, four_quarters())
    assert parse.path == address
    assert [parse.save(tmp_path).name for _ in range(2)] == ["my cat", "my cat"]


def test_redirects_lead_to_web_addresses_only(parser: Parser, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    good = serve(lambda handler: send(handler, 200, png()))
    assert parser(serve(lambda handler: send(handler, 302, Location=good)), ["object"]).object.share("sky") == 0.25
    for target in (f"file://{tmp_path}/secret.png", "ftp://127.0.0.1/a.png", "data:,x"):
        address = serve(lambda handler, target=target: send(handler, 302, Location=target))
        with pytest.raises(UpernetError, match=r"^http://127.* (cannot be downloaded|not https)"):
            parser(address)


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://example.org/a.png", "gopher://x/y"])
def test_other_addresses_are_refused(parser: Parser, address: str) -> None:
    with pytest.raises(UpernetError, match=r"photos come from files and from addresses with http://, .* only"):
        parser(address)


def test_what_is_no_address_is_one_sentence(parser: Parser) -> None:
    with pytest.raises(UpernetError, match=r"^https://\[::1: not a valid address \(Invalid IPv6 URL\); check it\.$"):
        parser("https://[::1")


def test_failing_downloads_are_one_sentence(
    parser: Parser, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UpernetError, match=r"/cat\.png: the server answered 404 Not Found; check the address"):
        parser(serve(lambda handler: send(handler, 404)) + "/cat.png")
    with pytest.raises(UpernetError, match=r"/page: not an image"):
        parser(serve(lambda handler: send(handler, 200, b"<html>")) + "/page")
    with pytest.raises(UpernetError, match=r"127\.0\.0\.1:1: cannot be downloaded"):
        parser("http://127.0.0.1:1")
    monkeypatch.setattr(web, "LARGEST", len(png()) - 1)
    with pytest.raises(UpernetError, match="has more than 0 MiB"):
        parser(serve(lambda handler: send(handler, 200, png())))
