"""Pictures that are no everyday photos: samples of scikit-image, and pages, plots, windows and drawings made here."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SAMPLES = {
    "drawing": ("horse", "logo", "chessboard_GRAY", "color"),
    "text page": ("page", "text"),
    "medical": ("phantom", "microaneurysms", "retina"),
    "microscope": ("cell", "ihc"),
    "telescope": ("hubble_deep_field", "moon"),
}
"""Kind of picture -> files in `skimage/data`, all of them part of the wheel."""
PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "motorcycle_left", "rocket")
"""Photos among the samples of scikit-image."""
DRAWN_PER_KIND = 20
TEXT = (
    "the network reads a photo once and names what it sees at every pixel so that people can ask where things are "
    "and what they are made of while tables of numbers and words fill the rest of this page without any meaning"
)


def unfamiliar_pictures() -> Iterator[tuple[str, str, Image.Image]]:
    """Yield the kind, the name and the RGB picture of each; large samples are followed by their quarters."""
    for kind, names in SAMPLES.items():
        for name in names:
            picture = sample(name)
            yield kind, name, picture
            if min(picture.size) >= 400:
                for number, quarter in enumerate(_quarters(picture)):
                    yield kind, f"{name}, quarter {number + 1}", quarter
    for kind, draw in DRAWN.items():
        for seed in range(DRAWN_PER_KIND):
            yield kind, f"{kind} {seed}", draw(random.Random(seed))


def sample(name: str) -> Image.Image:
    """Return a picture of scikit-image."""
    import skimage

    folder = Path(str(skimage.__file__)).parent / "data"
    path = next(path for path in sorted(folder.iterdir()) if path.stem == name and path.suffix in (".png", ".jpg"))
    with Image.open(path) as picture:
        if picture.mode in ("LA", "RGBA", "P"):
            flat = Image.new("RGBA", picture.size, "white")
            flat.alpha_composite(picture.convert("RGBA"))
            return flat.convert("RGB")
        return picture.convert("RGB")


def _quarters(picture: Image.Image) -> list[Image.Image]:
    width, height = picture.width // 2, picture.height // 2
    return [picture.crop((x, y, x + width, y + height)) for y in (0, height) for x in (0, width)]


def _text_page(rng: random.Random) -> Image.Image:
    paper = rng.randint(235, 255)
    page = Image.new("RGB", (480, 640), (paper, paper, paper - rng.randint(0, 15)))
    draw = ImageDraw.Draw(page)
    size = rng.randint(10, 20)
    y = rng.randint(20, 60)
    while y < 600:
        line = " ".join(rng.choices(TEXT.split(), k=12))
        if rng.random() > 0.1:
            draw.text((40, y), line[: 700 // size], fill=(20, 20, 30), font=ImageFont.load_default(size))
        y += round(1.5 * size)
    return page


def _plot(rng: random.Random) -> Image.Image:
    plot = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(plot)
    draw.rectangle((60, 30, 610, 430), outline="black")
    for step in range(6):
        y = 430 - 80 * step
        draw.line((60, y, 610, y), fill=(220, 220, 220))
        draw.text((20, y - 6), f"{step * rng.choice((1, 5, 10))}", fill="black", font=ImageFont.load_default(12))
    if rng.random() < 0.5:
        width = 550 // rng.randint(4, 12)
        for x in range(60, 610 - width, width):
            draw.rectangle((x + 4, 430 - rng.randint(20, 380), x + width - 4, 430), fill=_color(rng))
    else:
        for _ in range(rng.randint(1, 4)):
            y, points = rng.randint(100, 400), []
            for x in range(60, 611, 10):
                y = min(425, max(35, y + rng.randint(-20, 20)))
                points.append((x, y))
            draw.line(points, fill=_color(rng), width=2)
    return plot


def _screen(rng: random.Random) -> Image.Image:
    screen = Image.new("RGB", (800, 500), _color(rng))
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 476, 800, 500), fill=(40, 40, 48))
    for number in range(rng.randint(3, 8)):
        draw.rectangle((8 + 40 * number, 480, 32 + 40 * number, 496), fill=_color(rng))
    for _ in range(rng.randint(1, 4)):
        x, y = rng.randint(0, 350), rng.randint(0, 220)
        right, bottom = x + rng.randint(250, 440), y + rng.randint(150, 250)
        dark = rng.random() < 0.4
        draw.rectangle((x, y, right, bottom), fill=(30, 32, 38) if dark else "white", outline=(120, 120, 120))
        draw.rectangle((x, y, right, y + 20), fill=_color(rng))
        for row in range(y + 28, bottom - 14, 14):
            text = " ".join(rng.choices(TEXT.split(), k=rng.randint(1, 7)))[: (right - x) // 8]
            draw.text(
                (x + 8, row), text, fill=(200, 210, 220) if dark else (30, 30, 30), font=ImageFont.load_default(11)
            )
    return screen


def _drawing(rng: random.Random) -> Image.Image:
    """Draw a house, a sun and stick figures with a pen on paper."""
    sheet = Image.new("RGB", (512, 400), "white")
    draw = ImageDraw.Draw(sheet)
    pen = _color(rng) if rng.random() < 0.5 else (20, 20, 20)
    x, y, side = rng.randint(20, 250), rng.randint(130, 200), rng.randint(80, 160)
    draw.rectangle((x, y, x + side, y + side), outline=pen, width=3)
    draw.line([(x, y), (x + side // 2, y - side // 2), (x + side, y)], fill=pen, width=3)
    draw.rectangle((x + side // 3, y + side // 2, x + side // 2, y + side), outline=pen, width=3)
    sun = rng.randint(330, 440)
    draw.ellipse((sun, 30, sun + 50, 80), outline=pen, width=3)
    for _ in range(rng.randint(1, 3)):
        x, y = rng.randint(280, 470), rng.randint(150, 250)
        draw.ellipse((x - 14, y - 14, x + 14, y + 14), outline=pen, width=3)
        draw.line((x, y + 14, x, y + 70), fill=pen, width=3)
        for dx in (-22, 22):
            draw.line((x, y + 30, x + dx, y + 50), fill=pen, width=3)
            draw.line((x, y + 70, x + dx, y + 110), fill=pen, width=3)
    return sheet


def _cartoon(rng: random.Random) -> Image.Image:
    """Draw flat shapes with outlines."""
    sheet = Image.new("RGB", (512, 400), _color(rng))
    draw = ImageDraw.Draw(sheet)
    for _ in range(rng.randint(5, 14)):
        x, y, size = rng.randint(-40, 460), rng.randint(-40, 350), rng.randint(40, 200)
        box = (x, y, x + size, y + round(size * rng.uniform(0.5, 1.5)))
        shape = rng.choice((draw.ellipse, draw.rectangle))
        shape(box, fill=_color(rng), outline=(0, 0, 0), width=4)
    return sheet


def _x_ray(rng: random.Random) -> Image.Image:
    """Draw bright, blurred bones and ribs on a dark ground with grain."""
    film = Image.new("L", (400, 480), 15)
    draw = ImageDraw.Draw(film)
    draw.ellipse((40, 40, 360, 470), fill=rng.randint(60, 90))
    for side in (90, 210):
        draw.ellipse((side, 100, side + 100, 380), fill=rng.randint(25, 45))
    draw.line((200, 20, 200 + rng.randint(-10, 10), 470), fill=170, width=rng.randint(22, 34))
    for y in range(90, 400, rng.randint(28, 40)):
        for left, start in ((60, 180), (200, 270)):
            draw.arc((left, y, left + 140, y + 90), start, start + 90, fill=140, width=10)
    film = film.filter(ImageFilter.GaussianBlur(rng.uniform(3, 6)))
    grain = np.random.default_rng(rng.randrange(2**31)).normal(0, 4, (480, 400))
    return Image.fromarray((np.asarray(film) + grain).clip(0, 255).astype(np.uint8)).convert("RGB")


def _noise(rng: random.Random) -> Image.Image:
    generator = np.random.default_rng(rng.randrange(2**31))
    channels, block = rng.choice((1, 3)), rng.choice((1, 2, 8, 32))
    values = generator.integers(0, 256, (320 // block, 320 // block, channels), np.uint8)
    values = np.broadcast_to(values, (*values.shape[:2], 3))
    return Image.fromarray(np.ascontiguousarray(values)).resize((320, 320), Image.Resampling.NEAREST)


def _gradient(rng: random.Random) -> Image.Image:
    first, second = (np.array(_color(rng), float) for _ in range(2))
    weight = np.linspace(0, 1, 320)[:, None, None]
    values = np.broadcast_to(first + weight * (second - first), (320, 320, 3))
    picture = Image.fromarray(values.astype(np.uint8))
    return picture.rotate(90) if rng.random() < 0.5 else picture


def _color(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


DRAWN: dict[str, Callable[[random.Random], Image.Image]] = {
    "drawn text page": _text_page,
    "plot": _plot,
    "screenshot": _screen,
    "pen drawing": _drawing,
    "cartoon": _cartoon,
    "X-ray-like": _x_ray,
    "noise": _noise,
    "gradient": _gradient,
}
