"""Put the numbers of ``benchmarks/results/*.json`` into the READMEs: ``python benchmarks/tables.py``.

A README says where a table goes by a pair of comments, ``<!-- table NAME -->`` and ``<!-- end -->``; what lies
between them is replaced, so that no number there is typed by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from measuring import REPOSITORY, RESULTS, most_allowed, spread

READMES = (REPOSITORY / "README.md", REPOSITORY / "benchmarks" / "README.md", REPOSITORY / "docs" / "verdict.md")
PLACE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Result = dict[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def middle(values: Iterable[float], digits: int = 1) -> str:
    """Median with the lowest and the highest; a single value alone."""
    values = list(values)
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    return "{} ({} to {})".format(*(f"{v:,.{digits}f}" for v in spread(values).values()))


def training_step(result: Result) -> str:
    """Ours and the peer with its faster attention, by precision."""
    rows = []
    for method, speeds in result["images_per_second"].items():
        for ours in (kind for kind in speeds if kind.startswith("ours")):
            precision = ours.removeprefix("ours ")
            peers = [middle(speeds[kind]) for kind in speeds if kind.startswith("peer") and kind.endswith(precision)]
            ratio = result["ratio_to_peer"][method][ours]
            rows.append([
                f"{method.upper()}, {precision}", middle(speeds[ours]), *peers,
                f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})",
                f"{most_allowed(result, method, precision):.0f}",
            ])  # fmt: skip
    losses = result["losses"]
    apart = f"{losses['largest_relative_difference']:.0e} over {len(losses['ours'])} steps"
    head = ["", "ours, images/s", "ViTMAE, eager", "ViTMAE, sdpa", "ours / the faster ViTMAE", "products allow"]
    rates = f"{middle(result['matmul_gflops'], 0)} GFLOP/s in fp32"
    if result["matmul_gflops_bf16"]:
        rates += f" and {middle(result['matmul_gflops_bf16'], 0)} in bf16"
    return (
        f"Training of the paper's model (ViT-Tiny, patch 8, decoder 512 x 8) on {result['cpu']},\n"
        f"{result['cores']} cores, batch {result['batch']}, end to end; medians with the lowest and the highest:\n\n"
        + table(head, rows)
        + f"\n\nThe last column: the step's arithmetic at the rate of large matrix products here, {rates},\n"
        f"measured in the same run. From the same weights, batches and masks the two losses differ by\n{apart}."
    )


def components(result: Result) -> str:
    """Seconds and memory of each contender, and how far they agree."""
    rows = [
        [name, middle([r["seconds"] for r in runs], 2), f"{max(r['extra_bytes'] for r in runs) / 2**30:.2f} GiB"]
        for name, runs in result["runs"].items()
    ]
    count, size = result["shape"][:2]
    text = f"Components of {count:,} uint8 color images of {size} px:\n\n" + table(
        ["", "seconds", "extra memory"], rows
    )
    found = result["agreement"]
    if found:
        text += (
            f"\n\nVariance ratios agree with scikit-learn's to {found['largest_difference_of_variance_ratio']:.0e}, "
            f"the leading 50\ncomponents span the same space to "
            f"{found['sine_of_largest_angle_between_leading_50']:.0e}."
        )
    return text


def probes(result: Result) -> str:
    """Seconds and memory of each probe."""
    rows = [
        [name, middle([r["seconds"] for r in runs]), f"{max(r['extra_bytes'] for r in runs) / 2**20:.0f} MiB"]
        for name, runs in result["runs"].items()
    ]
    head = f"Probes on {result['images']:,} x {result['width']} features:\n\n"
    return head + table(["", "seconds", "extra memory"], rows)


def growth(result: Result) -> str:
    """Exponents."""
    rows = [
        [name, f"{c['exponent']:.2f}", f"{c['sizes'][-1]:,} {c['unit']}: {c['seconds'][-1]:.2f} s"]
        for name, c in result["curves"].items()
    ]
    head = "Growth, as the exponent of cost over size (1 is linear):\n\n"
    return head + table(["", "exponent", "at the largest size"], rows)


def study(result: Result) -> str:
    """What a study costs beside its trials."""
    names = {
        "start_to_first_trial": "start to first trial",
        "training_and_probing_of_a_trial": "training and probing of a trial",
        "overhead_of_a_trial": "overhead per trial, in addition",
        "verdict": "until the verdict",
        "whole": "until the command ends, with figures and report",
    }
    found = result["found"]
    rows = [[text, middle([run[name] for run in result["runs"]], 2)] for name, text in names.items()]
    options = " ".join(result["options"])
    kind = f"A study of digits (`{options}`" if options else "The default study of digits ("
    head = f"{kind}{', ' if options else ''}{found['trials']['median']:.0f} trials) on {result['cpu']}, in seconds:\n\n"
    return head + table(["", "seconds"], rows)


def soak(result: Result) -> str:
    """Faults, and what a study whose processes were killed left behind."""
    faults = ", ".join(f"{name} {count}" for name, count in sorted(result["faults"].items(), key=lambda f: -f[1]))
    names = {
        "driver_mib": "resident memory of the driver, MiB",
        "driver_files": "open files of the driver",
        "processes": "processes",
        "object_store_mib": "shared memory of the raylet, MiB",
        "ray_mib": "files of Ray, MiB",
        "ray_folders": "folders of Ray sessions",
        "study_files": "files of the study",
        "study_mib": "files of the study, MiB",
    }
    found = result["disturbed"]
    rows = [
        [text, *(f"{found[name][part]:g}" for part in ("first_third", "last_third"))] for name, text in names.items()
    ]
    return (
        f"A study of {result['trials']} trials, resumed {len(result['sessions']) - 1} times. Killed: {faults}.\n"
        f"Differences from the undisturbed study: {len(result['differences'])}; unexpected ends: "
        f"{len(result['unexpected_ends'])}; left behind: {len(result['outlived'])} processes, "
        f"{result['ray_folders_left']} folders of Ray.\n\n"
        + table(["largest in a session, median", "first third of the sessions", "last third"], rows)
    )


def distributed(result: Result) -> str:
    """What sharing a batch among workers gains, what they exchange, and what losing one costs."""
    rows = [
        [
            row["method"].upper(), f"{row['workers']} x {row['threads']}", middle(row["images_per_second"]),
            middle([row["times_first"][k] for k in ("median", "lowest", "highest")], 2),
            f"{spread(row['loopback_bytes'])['median'] / 1e6:,.0f}" if row["workers"] > 1 else "",
            f"{row['overlap']['median']:.0%}" if "overlap" in row else "",
        ]
        for row in result["scaling"]
    ]  # fmt: skip
    text = (
        f"The paper's model, batch {result['batch']}, {result['precision']}, on {result['cores']} cores of "
        f"{result['cpu']}:\n\n"
        + table(["", "workers x threads", "images/s", "times 1 x 1", "MB a step", "exchange hidden"], rows)
    )
    found = result["restart"]
    if found:
        text += (
            f"\n\nA worker of an elastic run of (1, 2) workers was killed: the next epoch was reported "
            f"{found['seconds_from_kill_to_next_record']:.0f} s\nlater, compared with "
            f"{found['seconds_between_records']:.0f} s between two epochs before it."
        )
    return text


def step_variants(result: Result) -> str:
    """What each choice is worth."""
    rows = [[name, middle(gain["runs"], 2)] for name, gain in result["gain"].items()]
    return (
        f"One thing changed in the training step ({result['method'].upper()}, batch {result['batch']}, fp32, "
        f"{result['images_per_second']['median']:.0f} images/s as it is):\n\n"
        + table(["changed", "images/s, times those of the step as it is"], rows)
    )


def stacked_trials(result: Result) -> str:
    """The gain over one model at a time."""
    gains = [run["gain"]["median"] for run in result["runs"]]
    return (
        f"* **Stacked trials** ({result['models']} models of the quick preset as one through `vmap`): "
        f"{min(gains):.2f} to {max(gains):.2f} times one\n  by one on the CPU, in CPU seconds of a busy machine; "
        "below the 1.5 that would pay for the code. Not measured on a GPU."
    )


def threads(result: Result) -> str:
    """One thread against torch's default."""
    loads = [run["load"] for run in result["runs"]]
    rows = [
        (f"{run['gflop_per_step']:.1f}", f"{run['method'].upper()}, {run['model']}", *(
            f"{run['milliseconds'][t]['median']:,.0f}" for t in ("1", str(result["compared"]))
        ), "{median:.1f} ({lowest:.1f} to {highest:.1f})".format(**run["one_thread_speed"]))
        for run in result["runs"]
    ]  # fmt: skip
    head = ("GFLOP a step", "model", "ms, 1 thread", f"ms, {result['compared']} threads", "1 thread, times as fast")
    return (
        f"Steps of batches of 32 on {result['cores']} cores that other processes used too (load average "
        f"{min(loads):.0f} to {max(loads):.0f}):\n\n{table(head, rows)}"
    )


def kernels(result: Result) -> str:
    """Operators per step."""
    rows = [
        (f"{run['method'].upper()}, {run['recipe']}", f"{run['operators_per_step']:,}", *(
            f"{n:,}" for n in run["operators"].values()
        ), f"{run['peak_tensor_bytes'] / 2**30:.2f}", f"{run['gflop_per_step']:,.1f}")
        for run in result["runs"]
    ]  # fmt: skip
    head = ("recipe", "operators", *result["runs"][0]["operators"], "tensors at the peak, GiB", "GFLOP")
    return f"Operators of one training step, counted on the meta device:\n\n{table(head, rows)}"


def noise(result: Result) -> str:
    """Components of the variance, paired differences under several ways to score, and the power that they buy."""
    return "\n\n".join(_noise_of(found) for found in result["data_sets"].values())


def _noise_of(found: Result) -> str:
    ratios = [column.split()[1] for column in found["components"]["all together"] if column.startswith("split 0")]
    columns = {f"{way} {ratio}": f"{way}, PMAE {float(ratio):.0%}" for way in ("split", "folds") for ratio in ratios}
    if len(ratios) > 1:
        columns |= {f"{way} difference": f"{way}, difference" for way in ("split", "folds")}
    sources = [
        [source, *("0" if row[column] == 0 else f"{row[column]:.2f}" for column in columns)]
        for source, row in found["components"].items()
    ]
    others = list(dict.fromkeys(row["ratio"] for row in found["differences"]))
    ways = []
    for power in found["power"]:
        rows = {row["ratio"]: row for row in found["differences"] if row["way"] == power["way"]}
        parts = [_root_mean_square(rows[r][part] for r in others) for part in ("encoder", "encoder_x_image", "image")]
        cells = [power["way"], *(f"{rows[r]['mean']:+.2f} ({rows[r]['sd']:.2f})" for r in others)]
        cells += [f"{value:.2f}" for value in (power["paired_sd"], *parts)]
        ways.append(
            [*cells, f"{power['holds_5']:.0%}", f"{power['holds_10']:.0%}", str(power["seeds_for_80"] or ">100")]
        )
    splits = [
        [f"PMAE {float(ratio):.0%}", *(f"{row[split]:.1f}" for split in ("train", "val", "test"))]
        for ratio, row in found["by_split"].items()
    ]
    images, patch = found["images"], found["config"]["model"]["patch_size"]
    sizes = f"{images['train']:,} + {images['val']:,} + {images['test']:,} images"
    error = 1 / math.sqrt(2 * (found["levels"] - 1))
    head = ["scored by", *(f"{r:.0%}" for r in others), "sd", "encoder", "encoder x image", "image"]
    return "\n\n".join(
        [
            f"Noise on {found['name']} ({sizes}, patch {patch}, {found['steps']} steps, {found['trials']} trials): "
            f"standard deviation in\npoints of accuracy, one source varied at a time over {found['levels']} seeds "
            f"(each is known to about {error:.0%} of itself):",
            table(["varied", *columns.values()], sources),
            "Paired difference to PMAE 20 %, all sources varied together: mean (standard deviation), its parts\n"
            "(encoder, encoder x image, image: common to all seeds), and the share of studies in which a flat\n"
            "ladder of seven rungs holds at a margin of 1 point:",
            table([*head, "holds, 5 seeds", "10 seeds", "seeds for 80 %"], ways),
            "Out-of-fold accuracy on the images of each split (the encoder was trained on those of train, without\n"
            "labels):",
            table(["", "train", "val", "test"], splits),
        ]
    )


def noise_short(result: Result) -> str:
    """What each source adds, and what each way to score makes of it."""
    parts = []
    for found in result["data_sets"].values():
        rows = found["components"]
        ratio = next(column.split()[1] for column in rows["all together"])
        sources = table(
            ["varied alone", "scored on the test split", "out of fold"],
            [[name, f"{row[f'split {ratio}']:.1f}", f"{row[f'folds {ratio}']:.1f}"] for name, row in rows.items()],
        )
        ways = table(
            ["scored by", "paired difference to 20 %", "a flat ladder holds with 5 seeds", "with 10"],
            [
                [p["way"], f"{p['paired_sd']:.1f}", f"{p['holds_5']:.0%}", f"{p['holds_10']:.0%}"]
                for p in found["power"]
            ],
        )
        parts.append(
            f"On {found['name']} ({found['levels']} seeds a source, PMAE at {float(ratio):.0%}), standard deviations "
            f"of an accuracy in points:\n\n{sources}\n\nand of the paired difference, with the share of studies of a "
            f"flat ladder of seven rungs that hold at a margin of 1 point:\n\n{ways}"
        )
    return "\n\n".join(parts)


def recipes(result: Result) -> str:
    """What training adds to an untrained encoder, by data set and method."""
    rows = sorted(result["rows"].values(), key=lambda row: (row["gain_lower_bound"] <= 3, row["set"], row["method"]))
    return table(
        [
            "images", "method", "scored on", "seeds", "untrained, %", "trained, %",
            "gain, points (95 % lower bound)", "CPU s",
        ],
        [
            [
                f"{row['set']} (patch {row['patch_size']}, {row['train_images']:,} for training)",
                row["method"].upper(), "folds" if row.get("evaluation") == "folds" else "test split", str(row["seeds"]),
                f"{row['untrained_mean']:.1f}", f"{row['trained_mean']:.1f}",
                f"{row['gain']:.1f} ({row['gain_lower_bound']:.1f})", f"{row['cpu_seconds']:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def verdict_cost(result: Result) -> str:
    """Trials and trial-seconds until a verdict."""
    return table(
        ["truth", "regret", "noise", "way", "holds, %", "fails, %", "trials", "trial-seconds"],
        [
            [
                row["truth"], f"{row['regret']:g}", f"{row['sd']:g}", row["mode"], f"{100 * row['holds']:.0f}",
                f"{100 * row['fails']:.0f}", f"{row['trials']:.0f}", f"{row['trial_seconds']:.0f}",
            ]
            for row in result["rows"]
        ],
    )  # fmt: skip


def verdict_cost_short(result: Result) -> str:
    """Trials until a verdict for a race, a ladder and a grid, with a regret of 0 and of 3 points."""
    ways = {"`--until-settled`": "race", "5 seeds (default)": "ladder, 5 seeds", "grid of 20 seeds": "grid, 20 seeds"}
    rows = []
    for truth, regret, name in (("flat", 0, "all ratios are equal"), ("peak at .55", 3, "20 % loses 3 points")):
        found = {r["mode"]: r for r in result["rows"] if (r["truth"], r["regret"], r["sd"]) == (truth, regret, 0.8)}
        right = "holds" if regret == 0 else "fails"
        rows.append(
            [name, *(f"{found[m]['trials']:.0f} trials, {found[m][right]:.0%} *{right}*" for m in ways.values())]
        )
    return table(["", *ways], rows)


def verdict_power(result: Result) -> str:
    """Holds / fails in percent for each truth, by number of seeds."""
    modes = list(dict.fromkeys(row["mode"] for row in result["rows"]))
    by_truth: dict[tuple[Any, ...], dict[str, Result]] = {}
    for row in result["rows"]:
        by_truth.setdefault((row["truth"], row["regret"], row["sd"]), {})[row["mode"]] = row

    def cell(row: Result, trials: bool) -> str:
        text = f"{100 * row['holds']:.0f} / {100 * row['fails']:.0f}"
        if row["uninformative"] > 0.5:
            text = f"uninformative {100 * row['uninformative']:.0f}"
        return text + (f" ({row['mean_trials']:.0f})" if trials else "")

    rows = [
        [truth, f"{regret:g}", f"{sd:g}", *(cell(found[mode], mode == "until settled") for mode in modes)]
        for (truth, regret, sd), found in by_truth.items()
    ]
    head = ["truth", "regret", "sd", *(f"{m} (mean trials)" if m == "until settled" else m for m in modes)]
    return table(head, rows)


def shared_masks(result: Result) -> str:
    """Speed of a step and accuracy, by how many images share a mask."""
    steps = [
        [
            name, f"{found['milliseconds']['image']['median']:.1f}",
            *("{median:.2f} ({lower_quartile:.2f} to {upper_quartile:.2f})".format(**r)
              for r in found["times_as_fast"].values()),
        ]
        for name, found in result["steps"].items()
    ]  # fmt: skip
    shared = list(next(iter(result["steps"].values()))["times_as_fast"])
    head = ["step of the quick recipe", "CPU ms, one mask per image", *(f"per {way}, times as fast" for way in shared)]
    text = f"PMAE at 20 %, one thread; medians with quartiles:\n\n{table(head, steps)}\n\n"
    rows = []
    for name, found in result["accuracy"].items():
        for way, row in found["ways"].items():
            compared = ["", ""]
            if "difference" in row:
                compared = [
                    "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**row["difference"]),
                    "{median:.2f} ({lowest:.2f} to {highest:.2f})".format(**row["times_as_fast"]),
                ]
            rows.append([f"{name}, {found['seeds']} seeds", way, f"{row['mean']:.2f} ({row['sd']:.2f})", *compared])
    head = ["images", "one mask per", "accuracy, % (sd)", "minus one per image, points (95 % interval)"]
    return text + table([*head, "training, times as fast"], rows)


def rounding(result: Result) -> str:
    """Relative errors of the largest and smallest coefficients and of the visible image, by format."""
    parts = ("largest_tenth", "smallest_tenth", "visible_image")
    rows = [
        [f"{name}, {kind}", *(f"{100 * errors[part]:.2g} %" for part in parts)]
        for name, formats in result["sets"].items()
        for kind, errors in formats.items()
    ]
    head = ["", "tenth of the components with most variance", "tenth with least", "visible image"]
    return "Relative root mean square error of coefficients and of the encoder's input:\n\n" + table(head, rows)


def _root_mean_square(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return math.sqrt(sum(squares) / len(squares))


# Name in the READMEs -> its text and the file that it is made from.
TABLES: dict[str, tuple[Callable[[Result], str], str]] = {
    "training-step": (training_step, "training-step-cpu.json"),
    "components": (components, "components-cpu.json"),
    "components-large": (components, "components-large-cpu.json"),
    "probes": (probes, "probes-cpu.json"),
    "growth": (growth, "growth-cpu.json"),
    "distributed": (distributed, "distributed-cpu.json"),
    "study": (study, "study-cpu.json"),
    "soak": (soak, "soak.json"),
    "step-variants": (step_variants, "step-variants-pmae-cpu.json"),
    "stacked-trials": (stacked_trials, "stacked-trials-cpu.json"),
    "threads": (threads, "threads-cpu.json"),
    "kernels": (kernels, "kernels.json"),
    "noise": (noise, "noise.json"),
    "noise-short": (noise_short, "noise.json"),
    "recipes": (recipes, "recipes.json"),
    "verdict-power": (verdict_power, "verdict_power.json"),
    "rounding": (rounding, "rounding.json"),
    "shared-masks": (shared_masks, "shared-masks.json"),
    "verdict-cost": (verdict_cost, "verdict_cost.json"),
    "verdict-cost-short": (verdict_cost_short, "verdict_cost.json"),
}


def filled(text: str) -> str:
    """``text`` with every table brought up to date."""

    def replace(place: re.Match[str]) -> str:
        make, file = TABLES[place[2]]
        path = RESULTS / file
        text = make(json.loads(path.read_text())) if path.exists() else f"(no `{file}` yet)"
        return f"{place[1]}{text}\n{place[3]}"

    return PLACE.sub(replace, text)


def main() -> None:
    """Rewrite the READMEs."""
    for path in READMES:
        path.write_text(filled(path.read_text()))
        print(f"updated {path}")


if __name__ == "__main__":
    main()
