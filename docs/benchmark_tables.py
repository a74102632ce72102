"""Tables of docs/performance.md, made from the results of `python -m benchmarks.NAME` in docs/results/benchmarks/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "benchmarks"


def read(name: str) -> dict[str, Any]:
    """Read the results of one benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(*rows: list[str]) -> list[str]:
    """Format rows as a Markdown table; the first row is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"


def gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def conditions(result: Mapping[str, Any]) -> str:
    machine, repeats = result["machine"], result["repeats"]
    return f"{machine['threads']} threads, median of {repeats}"


def comparisons(result: Mapping[str, Any], rows: Mapping[str, Any], title: str = "") -> list[str]:
    """Return a table with a row per comparison: the time of each alternative, and its speed-up over the first."""
    first, *others = dict.fromkeys(name for row in rows.values() for name in row["seconds"])
    header = [title or conditions(result), first, *(heading for name in others for heading in (name, "ratio"))]
    body = []
    for name, row in rows.items():
        cells = [name, duration(row["seconds"][first]["median"])]
        for other in others:
            measured = other in row["seconds"]
            cells += [duration(row["seconds"][other]["median"]), f"{row['ratio'][other]:.1f}"] if measured else ["", ""]
        body.append(cells)
    return table(header, *body)


def machine() -> list[str]:
    about = read("models")["machine"]
    return [
        f"Measured on: {about['processor']}, {about['cores']} cores, {about['vectors']}; {about['system']}, Python "
        f"{about['python']}, torch {about['torch']}, Numba {about['numba']}."
    ]


def operators() -> list[str]:
    result = read("operators")
    return comparisons(result, result["rows"])


def models() -> list[str]:
    return _whole_networks(read("models"))


def models_avx2() -> list[str]:
    """Return the same table, of a run without instructions beyond AVX2."""
    result = read("models_avx2")
    limit = result["roofline"]
    return [
        *_whole_networks(result),
        "",
        f"T at 512 takes {limit['measured_over_roofline']:.2f} times as long as its multiply-adds at the best rate of "
        f"torch's own products, {max(limit['multiply_adds_per_second'].values()) / 1e9:.0f} G per second.",
    ]


def _whole_networks(result: Mapping[str, Any]) -> list[str]:
    lines = comparisons(result, result["rows"])
    differences = [row["agreement"] for row in result["rows"].values() if "agreement" in row]
    for name in differences[0]:
        error = max(values[name]["relative_error"] for values in differences)
        same = min(values[name]["argmax_agreement"] for values in differences)
        lines += [
            "",
            f"Logits of *{name}* differ from the first by at most {error:.0e} of their spread, and the class agrees on "
            f"at least {100 * same:.3f} % of the pixels.",
        ]
    return lines


def roofline() -> list[str]:
    result = read("models")
    limit, direct = result["roofline"], result["direct"]
    rates = limit["multiply_adds_per_second"]
    best = max(rates, key=lambda name: rates[name])
    return [
        *table(
            [conditions(result), "multiply-adds per second"],
            *([name, f"{rate / 1e9:.0f} G"] for name, rate in rates.items()),
        ),
        "",
        f"T at {direct['height']} x {direct['width']} takes {direct['multiply_adds'] / 1e9:.0f} G multiply-adds, what "
        f"Winograd saves not counted. At 512 x 512 and with F(4x4, 3x3) {limit['multiply_adds'] / 1e9:.1f} G are left, "
        f"{duration(limit['seconds'])} at the rate of {best}; T takes {duration(limit['measured_seconds'])}, "
        f"{limit['measured_over_roofline']:.2f} times as long.",
    ]


def limits() -> list[str]:
    """Return a table of what would be possible if networks took no time for anything but products."""
    results = {"": read("models"), ", without AVX-512": read("models_avx2")}
    rows = [
        [
            f"{name}{suffix}",
            f"{limit['multiply_adds'] / 1e9:.1f} G",
            duration(limit["seconds"]),
            f"{limit['ratio']:.1f}",
            f"{result['rows'][name]['ratio']['fast']:.1f}",
        ]
        for suffix, result in results.items()
        for name, limit in result["limits"].items()
    ]
    return table(["", "multiply-adds left", "at the best rate", "official, over that", "official, over fast"], *rows)


def peers() -> list[str]:
    """Return a table with a row per network or program, fastest first."""
    result = read("peers")
    fast = result["seconds"]["fast"]["median"]
    rows = [[conditions(result), "time", "over fast", "logits differ by", "same class"]]
    for name, times in sorted(result["seconds"].items(), key=lambda item: item[1]["median"]):
        values = result["agreement"].get(name)
        agreement = ["", ""]
        if values:
            agreement = [f"{values['relative_error']:.0e}", f"{100 * values['argmax_agreement']:.3f} %"]
        rows.append([name, duration(times["median"]), f"{times['median'] / fast:.1f}", *agreement])
    return table(*rows)


def exported() -> list[str]:
    """Return a table per network with a row per way to compute it, fastest first."""
    result = read("export")
    lines = [f"One photo from uint8 to logits; {conditions(result)}, {result['machine']['processor']}."]
    for name, row in result["rows"].items():
        fast = row["seconds"]["fast"]["median"]
        cells = [[name, "time", "over `upernet`", "logits differ by"]]
        for way, times in sorted(row["seconds"].items(), key=lambda item: item[1]["median"]):
            error = f"{row['agreement'][way]['relative_error']:.0e}" if way in row["agreement"] else ""
            title = {"fast": "`upernet`", "official": "official way"}.get(way, way)
            cells.append([title, duration(times["median"]), f"{times['median'] / fast:.2f}", error])
        lines += ["", *table(*cells)]
    return lines


def training() -> list[str]:
    result = read("training")
    return comparisons(result, result["rows"])


def memory() -> list[str]:
    rows = read("memory")["rows"]
    ways = list(dict.fromkeys(way for row in rows.values() for way in row))
    cells = ([name, *(gigabytes(row[way]) if way in row else "" for way in ways)] for name, row in rows.items())
    return table(["peak memory of the process", *ways], *cells)


def scaling() -> list[str]:
    result = read("scaling")
    lines = []
    for group, rows in result["groups"].items():
        what = f"median of {result['repeats']}" if group == "threads" else conditions(result)
        lines += ["", *comparisons(result, rows, f"{group}; {what}")]
    return lines[1:]


def busy() -> list[str]:
    """Return a table of one and two threads, with the load of other programs."""
    result = read("busy")
    lines = comparisons(result, result["rows"], f"median of {result['repeats']}; ratio: speedup over 1 thread")
    return [*lines, "", f"During the measurement, other programs used {result['load_of_others']:.2f} cores."]


def cold_start() -> list[str]:
    result = read("cold_start")
    whole, forward = result["rows"]
    seconds = result["rows"][whole]["seconds"]
    photos = 1 / result["rows"][forward]["seconds"]["fast"]["median"]
    return [
        *table(
            [f"`{whole}`, {conditions(result)}", "seconds"],
            ["first ever", f"{seconds['first ever']['median']:.1f}"],
            ["with compiled kernels in the cache", f"{seconds['filled cache']['median']:.1f}"],
            *([f"of these, {step}", f"{value:.2f}"] for step, value in result["steps"].items() if step[:6] != "second"),
            ["a second parse in the same process", f"{result['steps']['second parse']:.2f}"],
        ),
        "",
        *comparisons(result, {forward: result["rows"][forward]}),
        "",
        f"That is {photos:.1f} photos per second.",
    ]


def many_photos() -> list[str]:
    """Return a table of the whole command beside the network alone, and where the time goes."""
    result = read("collections")
    rows = [
        [f"photos per second; {conditions(result)}", "network alone", "whole command", "ratio", "ratio of CPU seconds"]
    ]
    steps = [["each step by itself, per photo", *next(iter(result["rows"].values()))["steps"]]]
    for name, row in result["rows"].items():
        rates = {way: row["photos"] / times["median"] for way, times in row["seconds"].items()}
        share = rates["whole"] / rates["network"]
        cpu = row["cpu"]["network"] / row["cpu"]["whole"]
        rows.append([name, f"{rates['network']:.2f}", f"{rates['whole']:.2f}", f"{share:.2f}", f"{cpu:.2f}"])
        steps.append([name, *map(duration, row["steps"].values())])
    return [*table(*rows), "", *table(*steps)]


def evaluation() -> list[str]:
    """Return a table of `evaluate` beside the network alone."""
    result = read("evaluation")
    rows = [[f"photos per second; {conditions(result)}", "network alone", "`evaluate`", "ratio"]]
    for name, row in result["rows"].items():
        rates = {way: row["photos"] / times["median"] for way, times in row["seconds"].items()}
        cells = (f"{rates['network']:.2f}", f"{rates['evaluate']:.2f}", f"{rates['evaluate'] / rates['network']:.2f}")
        rows.append([name, *cells])
    return table(*rows)


def breakdown() -> list[str]:
    result = read("breakdown")
    total = sum(result["seconds"].values())
    rows = [[f"`{name}`", duration(time), f"{100 * time / total:.0f} %"] for name, time in result["seconds"].items()]
    return table([f"T at {result['size']}, {result['machine']['threads']} threads", "time", "share"], *rows)


def precision() -> list[str]:
    """Return what bfloat16 and int8 change in a trained network of each kind."""
    networks = {
        "precision": "InternImage-T, trained by `internimage_t_camvid_512`",
        "precision_camvid": "EfficientNet-Lite2, the bundled `camvid`",
    }
    lines: list[str] = []
    for name, network in networks.items():
        result = read(name)
        exact, *rounded = result["rows"].items()
        header = [f"{network}; {result['photos']} test photos of CamVid", "mIoU", "same class", "logits differ by"]
        body = [[exact[0], f"{exact[1]['miou']:.4f}", "", ""]]
        for way, row in rounded:
            same, error = f"{100 * row['argmax_agreement']:.2f} %", f"{row['relative_error']:.0e}"
            body.append([way, f"{row['miou']:.4f}", same, error])
        lines += ["", *table(header, *body)]
    return lines[1:]


def targets() -> list[str]:
    """Return a table of the performance targets and what was reached."""
    names = ("operators", "models", "models_avx2", "training", "memory", "cold_start")
    rows = {name: read(name)["rows"] for name in names}
    models, limit = rows["models"], read("models")["roofline"]
    agreement = models["T at 512"]["agreement"]["fast"]
    whole, forward = rows["cold_start"]
    parse = rows["cold_start"][whole]["seconds"]["filled cache"]["median"]
    photos = 1 / rows["cold_start"][forward]["seconds"]["fast"]["median"]
    (step,) = rows["training"].values()
    rows_of_table: list[list[str]] = []

    def add_target(what: str, wanted: float, reached: float, unit: str, digits: int, least: bool = True) -> None:
        met = reached >= wanted if least else reached <= wanted
        bound = f"{'at least' if least else 'at most'} {wanted:g} {unit}".strip()
        rows_of_table.append([what, bound, f"{reached:.{digits}f} {unit}".strip(), "" if met else "missed"])

    add_target("DCNv3, forward", 12, rows["operators"]["dcnv3, 30 layers, forward"]["ratio"]["fast"], "x", 1)
    add_target("DCNv3, backward", 6, rows["operators"]["dcnv3, 30 layers, backward alone"]["ratio"]["fast"], "x", 1)
    add_target("UPerHead of T at 512", 3.5, models["T at 512, UPerHead"]["ratio"]["fast"], "x", 2)
    for name, wanted in (("T at 512", 6), ("S at 512", 5), ("B at 512", 4.5), ("L at 640", 4)):
        add_target(name, wanted, models[name]["ratio"]["fast"], "x", 2)
    for name, wanted in (("T at 512", 5), ("S at 512", 4), ("B at 512", 3.5)):
        add_target(f"{name}, without AVX-512", wanted, rows["models_avx2"][name]["ratio"]["fast"], "x", 2)
    add_target("error of T's logits, in their spread", 1e-4, agreement["relative_error"], "", 6, least=False)
    add_target("pixels with the same class", 99.99, 100 * agreement["argmax_agreement"], "%", 3)
    macs = read("models")["direct"]["multiply_adds"] / 1e9
    add_target("multiply-adds of T at 512 x 2048, before Winograd", 540, macs, "G", 0, least=False)
    add_target("T at 512, over its roofline", 1.3, limit["measured_over_roofline"], "x", 2, least=False)
    narrow = read("models_avx2")["roofline"]["measured_over_roofline"]
    add_target("T at 512, over its roofline, without AVX-512", 1.3, narrow, "x", 2, least=False)
    add_target("training step of T at 256, batch of 2", 4, step["ratio"]["fast"], "x", 2)
    for name, wanted in (("T at 512", 6), ("S at 512", 8), ("B at 512", 8)):
        add_target(f"{name} in bf16", wanted, models[name]["ratio"]["fast, bf16"], "x", 2)
    add_target("T at 512 in int8", 10, models["T at 512"]["ratio"]["fast, int8"], "x", 2)
    trained = read("precision")["rows"]
    for way, wanted in (("bf16", 99.5), ("int8", 99)):
        same = 100 * trained[way]["argmax_agreement"]
        add_target(f"{way}, trained T: pixels with the same class", wanted, same, "%", 2)
    lost = 100 * abs(trained["int8"]["miou"] - trained["fp32"]["miou"])
    add_target("int8, trained T: difference of the mIoU", 0.5, lost, "points", 2, least=False)
    batches = read("scaling")["groups"]["batch"]
    one, four = (batches[f"512 x 512, batch of {count}"]["seconds"]["fast"]["median"] for count in (1, 4))
    add_target("time per photo in a batch of four, over that alone", 1, four / 4 / one, "x", 2, least=False)
    for name, row in rows["memory"].items():
        official, fast = (row[way] / 2**30 for way in ("official", "fast"))
        add_target(f"peak memory of {name}", round(official, 2), fast, "GiB", 2, least=False)
    add_target("`upernet parse`, one photo, whole process", 2, parse, "s", 1, least=False)
    first = rows["cold_start"][whole]["seconds"]["first ever"]["median"]
    add_target("the same, with no compiled kernels", 5, first, "s", 1, least=False)
    add_target("`everyday` at 360 x 480", 10, photos, "photos/s", 1)
    return table(["", "target", "reached", ""], *rows_of_table)


def speed() -> list[str]:
    """Return the times of T at 512 for the README."""
    result = read("models")["rows"]["T at 512"]
    names = {"official": "official way", "fast": "`upernet`"}
    names |= {f"fast, {precision}": f"`upernet`, {precision}" for precision in ("bf16", "int8")}
    rows = [
        [names[way], duration(times["median"]), f"{result['ratio'][way]:.1f}"]
        for way, times in result["seconds"].items()
    ]
    about = read("models")["machine"]
    title = f"InternImage-T, 512 x 512, {about['threads']} threads of {about['processor']}"
    return table([title, "time", "times as fast"], *rows)


def upp() -> list[str]:
    """Return the times of the official network of Unified Perceptual Parsing, for its page."""
    result = read("upp")
    return comparisons(result, result["rows"])


SCORES = ("mIoU", "changed")


def video_smoothing() -> list[str]:
    """Return what smoothing over time is worth in a video, for its page."""
    result = read("video")
    distances = ("every frame", "every second frame")
    header = ["smoothing, weight of the past", *(f"{name}, {distance}" for distance in distances for name in SCORES)]
    body: list[list[str]] = []
    for rows in zip(*(result[distance]["ways"] for distance in distances), strict=True):
        name = f"{rows[0]['way']}, {rows[0]['weight']}" if rows[0]["weight"] else rows[0]["way"]
        body.append([name, *(cell for row in rows for cell in (f"{row['mIoU']:.3f}", f"{row['changed']:.1%}"))])
    times = [f"{name} {value:.0f} ms" for name, value in result[distances[0]]["milliseconds"].items()]
    found = f"Processor time of finding the motion between two frames: {', '.join(times)}."
    return [*table(header, *body), "", f"{result['frames']} frames, model `{result['model']}`. {found}"]


SHOWN = (speed, machine, targets, operators, models, breakdown, roofline, precision, peers, training, memory, scaling)
TABLES = {
    function.__name__: function
    for function in (
        *SHOWN,
        models_avx2,
        limits,
        evaluation,
        busy,
        cold_start,
        exported,
        many_photos,
        upp,
        video_smoothing,
    )
}
