"""What TF32 and bf16 would do to the projections on principal components: the error of the coefficients by their size.

    python benchmarks/rounding.py --cifar10 parquet:/path/to/folder --tinyimagenet /path/to/folder    # 2 minutes

Tensor cores round the factors of a product to 10 (TF32) or 7 (bf16) bits of mantissa and add up in float32. This is
done here on a CPU: the factors are rounded, the product is computed in float32 and compared with float64. Errors are
root mean squares over images, relative to the root mean square of what is compared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from measuring import RESULTS, describe_machine, write_result
from torch import Tensor

from pmae.components import PrincipalComponents
from pmae.components.bases import fit_basis
from pmae.data import load_images
from pmae.masking import draw_component_mask

FORMATS = {"fp32": 23, "TF32": 10, "bf16": 7}  # bits of mantissa
IMAGES = 1000


def rounded(values: Tensor, bits: int) -> Tensor:
    """Float32 ``values`` rounded to the nearest number with ``bits`` bits of mantissa, ties to even."""
    drop = 23 - bits
    if drop == 0:
        return values
    pattern = values.view(torch.int32)
    odd = (pattern >> drop) & 1
    return (((pattern + (1 << (drop - 1)) - 1 + odd) >> drop) << drop).view(torch.float32)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of ``exact``."""
    return float(((found.double() - exact).square().mean() / exact.square().mean()).sqrt())


def measure(components: PrincipalComponents, pixels: Tensor) -> dict[str, dict[str, float]]:
    """Relative errors by format, for (B, D) standardized ``pixels``."""
    basis = torch.tensor(components.components).double()
    draws = torch.Generator().manual_seed(0)
    mask, _ = draw_component_mask(torch.tensor(components.spectrum), 0.2, len(pixels), draws, "expected")
    kept = ~mask[:, : basis.shape[1]]
    exact = pixels.double() @ basis
    visible = (exact * kept) @ basis.T
    tenth = max(1, basis.shape[1] // 10)
    found = {}
    for name, bits in FORMATS.items():
        factor = rounded(basis.float(), bits)
        z = rounded(pixels, bits) @ factor
        found[name] = {
            "largest_tenth": relative_error(z[:, :tenth], exact[:, :tenth]),
            "smallest_tenth": relative_error(z[:, -tenth:], exact[:, -tenth:]),
            "visible_image": relative_error(rounded(z * kept, bits) @ factor.T, visible),
        }
    return found


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="source of CIFAR-10's images; left out without it")
    parser.add_argument("--tinyimagenet", help="folder of TinyImageNet; left out without it")
    parser.add_argument("--out", type=Path, default=RESULTS / "rounding.json", help="the JSON file")
    options = parser.parse_args()
    sets: dict[str, dict[str, Any]] = {"digits": {"source": "digits"}}
    if options.cifar10:
        sets["cifar10"] = {"source": options.cifar10, "limit": 4000}
    if options.tinyimagenet:
        sets["tinyimagenet"] = {"source": "tinyimagenet", "root": options.tinyimagenet, "image_size": 32, "limit": 4000}
    rows = {}
    for name, how in sets.items():
        images = load_images(**how)
        components = fit_basis("pca", images)
        pixels = torch.tensor(components.standardize(images.split("train").images[:IMAGES])).flatten(1)
        rows[name] = measure(components, pixels)
        print(name, json.dumps(rows[name], indent=1), flush=True)
    machine = describe_machine("cpu", ("torch",), __file__)
    write_result({"benchmark": "rounding", **machine, "sets": rows}, options.out)


if __name__ == "__main__":
    main()
