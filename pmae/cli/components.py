"""``python -m pmae components``: fit components, or load them from the cache, and show their spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmae.cli.loading import check_output, load_dataset, print_result, say
from pmae.cli.options import ComponentsOptions
from pmae.components import PrincipalComponents, cached_components
from pmae.devices import pick_device

VARIANCE_SHARES = (0.2, 0.5, 0.9, 0.99)


def run(options: ComponentsOptions) -> None:
    """Fit the components and print their spectrum."""
    out = None if options.out is None else check_output(options.out, (".safetensors",))
    images = load_dataset(options.data, options.printing)
    say(options.printing, f"{options.basis} components of {len(images.indices('train')):,} images of {images.name}")
    components, how = cached_components(
        images, options.basis, device=pick_device(options.machine.device), progress=not options.printing.quiet
    )
    if out is not None:
        components.save(out)
    summary = spectrum_summary(components)
    lines = [
        ("components", f"{components.rank:,} of {components.components.shape[0]:,} dimensions ({how})"),
        ("first component", f"{summary['first']:.1%} of the variance"),
        *(
            (f"{float(share):.0%} of the variance", f"{n:,} components" if n else f"more than the {components.rank:,}")
            for share, n in summary["needed"].items()
        ),
        ("without variance", f"{summary['without_variance']:,} components"),
    ]
    if out is not None:
        lines.append(("written to", str(out)))
    report = {"dataset": images.name, "basis": options.basis, "how": how, "out": None if out is None else str(out)}
    print_result(options.printing, {**report, **summary}, lines)


def spectrum_summary(components: PrincipalComponents) -> dict[str, Any]:
    """Return how many leading components hold each of ``VARIANCE_SHARES`` (None: all components do not)."""
    ratio = components.explained_variance_ratio
    cumulative = np.cumsum(ratio)
    needed: dict[str, int | None] = {}
    for share in VARIANCE_SHARES:
        count = int(np.searchsorted(cumulative, share - 1e-12)) + 1
        needed[str(share)] = count if count <= len(ratio) else None
    return {
        "rank": components.rank,
        "dimensions": components.components.shape[0],
        "first": float(ratio[0]),
        "needed": needed,
        "without_variance": int((ratio <= 1e-12).sum()),
        "error_bound": components.error_bound,
    }
