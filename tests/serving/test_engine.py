"""Tests of the engine of the server: its queue, its batches, cancellation, memory, failures and the end."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.color_network import BLUE, GREEN, RED
from helpers.server import DEADLINE, GatedParser, gated_parser, photo, until
from PIL import Image

from upernet.data.images import read_image
from upernet.errors import UpernetError
from upernet.inference import Parse
from upernet.serving.engine import Answer, ClosingError, Engine, QueueFullError, Request, Timing
from upernet.serving.limits import Limits

SIZE = 96, 64
PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture
def parser(checkpoint: Path) -> GatedParser:
    return gated_parser(checkpoint)


@pytest.fixture
def engine(parser: GatedParser) -> Iterator[Engine]:
    engine = Engine({"colors": parser}, Limits(queue=8, batch=3))
    engine.warmed.result(DEADLINE)
    yield engine
    parser.gate.set()
    engine.close()


def encode(parse: Parse, timing: Timing) -> Answer:
    """Return the labels of all levels, with the number of photos of the batch as the type."""
    return Answer(b"".join(label_map.labels.tobytes() for label_map in parse.maps.values()), str(timing.batch))


def request(
    content: bytes | None = None, pixels: int = PIXELS, levels: tuple[str, ...] = ("object",), **options: Any
) -> Request:
    given = {"name": None, "model": "colors", "max_side": None, "answer": encode} | options
    return Request(content=photo(*SIZE) if content is None else content, pixels=pixels, levels=levels, **given)


def hold_up(engine: Engine, parser: GatedParser) -> Future[Answer]:
    """Let a photo be in the network until its gate opens."""
    parser.close_gate()
    first = engine.submit(request())
    assert parser.entered.wait(DEADLINE)
    return first


def is_idle(engine: Engine) -> bool:
    return engine.waiting == 0 and engine.in_memory == 0


def test_answers_are_those_of_the_parser_alone(checkpoint: Path):
    parsers = {"one": gated_parser(checkpoint), "two": gated_parser(checkpoint)}
    counted: list[tuple[str, list[int], float]] = []
    engine = Engine(parsers, Limits(queue=1000, batch=4), lambda *batch: counted.append(batch))
    rng = np.random.default_rng(0)
    cases = []
    for number in range(18):
        width, height = rng.choice((40, 64, 96), 2)
        colors = [(RED, GREEN, BLUE)[index] for index in rng.permutation(3)]
        levels = (("object",), ("scene", "object", "part"), ("material", "texture"))[number % 3]
        cases.append((photo(width, height, colors=colors), int(width * height), levels, ("one", "two")[number % 2]))
    answers: dict[int, Answer] = {}

    def ask(numbers: range) -> None:
        for number in numbers:
            content, pixels, levels, model = cases[number]
            answers[number] = engine.submit(request(content, pixels, levels, model=model)).result(DEADLINE)

    threads = [threading.Thread(target=ask, args=(range(start, 18, 9),)) for start in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    for number, (content, _, levels, model) in enumerate(cases):
        alone = parsers[model](read_image(io.BytesIO(content)), levels)
        assert answers[number].content == encode(alone, Timing()).content
    assert sum(len(pixels) for _, pixels, _ in counted) == 18
    assert sum(sum(pixels) for _, pixels, _ in counted) == sum(pixels for _, pixels, _, _ in cases)
    assert max(len(pixels) for _, pixels, _ in counted) > 1  # there were batches
    assert is_idle(engine)


def test_a_batch_has_one_model_one_size_and_the_same_levels(checkpoint: Path):
    parsers = {"colors": gated_parser(checkpoint), "other": gated_parser(checkpoint)}
    engine = Engine(parsers, Limits(batch=4))
    engine.warmed.result(DEADLINE)
    first = hold_up(engine, parsers["colors"])
    alike = [engine.submit(request()) for _ in range(2)]
    differ = [
        engine.submit(request(levels=("material",))),
        engine.submit(request(model="other")),
        engine.submit(request(photo(64, 96))),
    ]
    until(lambda: engine.in_memory == 6 * PIXELS, "all are decoded")
    parsers["colors"].gate.set()
    assert first.result(DEADLINE).media_type == "1"
    assert [future.result(DEADLINE).media_type for future in alike] == ["2", "2"]
    assert [future.result(DEADLINE).media_type for future in differ] == ["1", "1", "1"]
    engine.close()


def test_a_batch_has_at_most_the_pixels_of_the_largest_photo(parser: GatedParser):
    engine = Engine({"colors": parser}, Limits(batch=4, pixels=2 * PIXELS))
    engine.warmed.result(DEADLINE)
    hold_up(engine, parser)
    futures = [engine.submit(request()) for _ in range(4)]
    until(lambda: engine.in_memory == 5 * PIXELS, "all are decoded")
    parser.gate.set()
    assert [future.result(DEADLINE).media_type for future in futures] == ["2"] * 4
    engine.close()


def test_a_damaged_photo_fails_alone(engine: Engine, parser: GatedParser):
    first = hold_up(engine, parser)
    contents = [photo(*SIZE), photo(*SIZE)[:-40], photo(*SIZE), b"no photo"]
    futures = [engine.submit(request(content)) for content in contents]
    with pytest.raises(UpernetError, match="damaged or truncated"):
        futures[1].result(DEADLINE)  # while the network is busy
    with pytest.raises(UpernetError, match="not an image"):
        futures[3].result(DEADLINE)
    assert engine.waiting == 2
    parser.gate.set()
    assert {future.result(DEADLINE).media_type for future in (futures[0], futures[2])} == {"2"}
    assert first.result(DEADLINE).media_type == "1"
    until(lambda: is_idle(engine), "all memory is free")


def test_a_failing_network_fails_its_batch_alone(engine: Engine, parser: GatedParser):
    first = hold_up(engine, parser)
    futures = [engine.submit(request()) for _ in range(2)]
    until(lambda: engine.in_memory == 3 * PIXELS, "all are decoded")
    parser.problem = RuntimeError("a defect")
    parser.gate.set()
    for future in (first, *futures):
        with pytest.raises(RuntimeError, match="a defect"):
            future.result(DEADLINE)
    parser.problem = None
    assert engine.submit(request()).result(DEADLINE).content
    until(lambda: is_idle(engine), "all memory is free")


def test_a_failing_answer_fails_alone(engine: Engine):
    def broken(parse: Parse, timing: Timing) -> Answer:
        raise ValueError("cannot be encoded")

    for _ in range(20):  # more than there are threads that encode
        with pytest.raises(ValueError, match="cannot be encoded"):
            engine.submit(request(answer=broken)).result(DEADLINE)
    assert engine.submit(request()).result(DEADLINE).content
    until(lambda: is_idle(engine), "all memory is free")


def test_errors_and_logs_do_not_name_the_file_but_the_parse_does(engine: Engine):
    def path(parse: Parse, timing: Timing) -> Answer:
        return Answer(str(parse.path).encode(), "text/plain")

    assert engine.submit(request(answer=path, name="secret.jpg")).result(DEADLINE).content == b"secret.jpg"
    with pytest.raises(UpernetError) as error:
        engine.submit(request(b"no photo", name="secret.jpg")).result(DEADLINE)
    assert "secret" not in str(error.value)


def test_cancelled_requests_leave_the_queue_and_free_their_memory(engine: Engine, parser: GatedParser):
    first = hold_up(engine, parser)
    futures = [engine.submit(request()) for _ in range(8)]
    with pytest.raises(QueueFullError):
        engine.submit(request())
    until(lambda: engine.in_memory == 7 * PIXELS, "those at the front are decoded")  # 2 * batch, and the first
    assert all(future.cancel() for future in futures[:7])
    assert engine.waiting == 1
    until(lambda: engine.in_memory == 2 * PIXELS, "their memory is free, and the last is decoded")
    parser.gate.set()
    assert futures[7].result(DEADLINE).media_type == "1"
    assert first.result(DEADLINE)
    assert parser.batches[1:] == [1, 1]  # after the warm-up


def test_a_request_that_is_cancelled_in_the_network_is_not_encoded(engine: Engine, parser: GatedParser):
    encoded: list[Parse] = []

    def note(parse: Parse, timing: Timing) -> Answer:
        encoded.append(parse)
        return encode(parse, timing)

    parser.close_gate()
    future = engine.submit(request(answer=note))
    assert parser.entered.wait(DEADLINE)
    assert future.cancel()
    parser.gate.set()
    until(lambda: is_idle(engine), "all memory is free")
    assert engine.submit(request()).result(DEADLINE)
    assert encoded == []


def test_cancelling_at_any_time_leaks_nothing(engine: Engine, parser: GatedParser):
    rng = np.random.default_rng(0)
    stop = threading.Event()

    def client(seed: int) -> None:
        own = np.random.default_rng(seed)
        while not stop.is_set():
            try:
                future = engine.submit(request())
            except QueueFullError:
                continue
            if own.random() < 0.5:
                future.cancel()
            else:
                future.result(DEADLINE)

    threads = [threading.Thread(target=client, args=(int(rng.integers(1000)),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: sum(parser.batches) > 50, "50 photos are parsed")
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)
    until(lambda: is_idle(engine), "all memory is free")


def test_a_full_queue_says_when_to_try_again(engine: Engine, parser: GatedParser):
    hold_up(engine, parser)
    for _ in range(8):
        engine.submit(request())
    with pytest.raises(QueueFullError) as full:
        engine.submit(request())
    assert 1 <= full.value.seconds <= 60


def test_a_queue_that_takes_too_long_is_full(parser: GatedParser):
    engine = Engine({"colors": parser}, Limits(queue=1000, seconds=10))
    engine.warmed.result(DEADLINE)
    hold_up(engine, parser)
    for _ in range(6):  # the first guess is a second for each photo
        engine.submit(request())
    with pytest.raises(QueueFullError) as full:
        engine.submit(request())
    assert full.value.seconds == 6
    parser.gate.set()
    engine.close()


def test_pixels_in_memory_are_bounded(parser: GatedParser):
    engine = Engine({"colors": parser}, Limits(queue=100, batch=8, in_memory=3 * PIXELS))
    engine.warmed.result(DEADLINE)
    first = hold_up(engine, parser)
    large = photo(2 * SIZE[0], 2 * SIZE[1])
    futures = [engine.submit(request()) for _ in range(5)]
    futures.append(engine.submit(request(large, 4 * PIXELS)))  # more than the limit: alone
    futures += [engine.submit(request()) for _ in range(5)]
    futures.append(engine.submit(request()))
    until(lambda: engine.in_memory == 3 * PIXELS, "as many are decoded as may be")
    assert engine.waiting == 12
    held: list[int] = []
    for future in futures:
        future.add_done_callback(lambda _: held.append(engine.in_memory))
    parser.gate.set()
    for future in (first, *futures):
        future.result(DEADLINE)
    engine.close()
    assert max(held) == 4 * PIXELS
    assert is_idle(engine)


def test_a_photo_that_takes_long_to_decode_holds_up_no_other(engine: Engine):
    size = (2500, 2000)
    file = io.BytesIO()
    Image.effect_noise(size, 50).save(file, "PNG", compress_level=1)
    order: list[str] = []

    def note(name: str, parse: Parse, timing: Timing) -> Answer:
        order.append(name)
        return Answer(b"", "")

    slow = engine.submit(request(file.getvalue(), size[0] * size[1], max_side=64, answer=partial(note, "slow")))
    quick = engine.submit(request(answer=partial(note, "quick")))
    for future in (slow, quick):
        future.result(DEADLINE)
    assert order == ["quick", "slow"]


def test_max_side_reduces_larger_photos_only(engine: Engine):
    def size(parse: Parse, timing: Timing) -> Answer:
        return Answer(b"", f"{parse.photo.width} x {parse.photo.height}")

    assert engine.submit(request(max_side=48, answer=size)).result(DEADLINE).media_type == "48 x 32"
    assert engine.submit(request(max_side=480, answer=size)).result(DEADLINE).media_type == "96 x 64"


def test_closing_answers_what_was_accepted(parser: GatedParser):
    engine = Engine({"colors": parser}, Limits())
    engine.warmed.result(DEADLINE)
    first = hold_up(engine, parser)
    futures = [engine.submit(request(content)) for content in (photo(*SIZE), b"no photo", photo(64, 96))]
    closing = threading.Thread(target=engine.close)
    closing.start()
    until(lambda: not engine.is_ready, "the engine is closing")
    with pytest.raises(ClosingError):
        engine.submit(request())
    parser.gate.set()
    closing.join(DEADLINE)
    assert all(future.done() for future in (first, *futures))
    assert futures[0].result().content and futures[2].result().content
    assert isinstance(futures[1].exception(), UpernetError)


def test_abandoning_cancels_what_waits(parser: GatedParser):
    engine = Engine({"colors": parser}, Limits())
    engine.warmed.result(DEADLINE)
    first = hold_up(engine, parser)
    futures = [engine.submit(request()) for _ in range(20)]
    engine.abandon()  # although the network is busy
    assert all(future.cancelled() for future in futures)
    with pytest.raises(ClosingError):
        engine.submit(request())
    parser.gate.set()
    engine.close()
    assert first.cancelled()


def test_a_model_that_does_not_run_ends_the_engine(parser: GatedParser):
    parser.close_gate()
    parser.problem = RuntimeError("no kernel for this")
    engine = Engine({"colors": parser}, Limits())
    waiting = engine.submit(request())
    parser.gate.set()
    with pytest.raises(RuntimeError, match="no kernel"):
        engine.warmed.result(DEADLINE)
    with pytest.raises(CancelledError):
        waiting.result(DEADLINE)
    assert not engine.is_ready
    with pytest.raises(ClosingError):
        engine.submit(request())
    engine.close()
