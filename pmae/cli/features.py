"""``python -m pmae features``: write the features of an encoder to a .npz or .parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pmae.cli.loading import check_output, load_for_encoder, print_result
from pmae.cli.options import FeaturesOptions
from pmae.cli.probe import trained_on
from pmae.data import ImageSet
from pmae.export import extract_features, load_encoder
from pmae.files import replace_atomically


def run(options: FeaturesOptions) -> None:
    """Extract the features and write them."""
    out = check_output(options.out, (".npz", ".parquet"))
    encoder = load_encoder(options.encoder)
    images = load_for_encoder(options.data, trained_on(options.encoder), encoder.image_size, options.printing)
    features = extract_features(
        encoder,
        images,
        options.splits,
        options.pool,
        device=options.machine.device,
        precision=options.machine.precision,
    )
    labels = {split: images.labels[images.indices(split)] for split in features}
    write = write_npz if out.suffix.lower() == ".npz" else write_parquet
    write(out, features, labels, images)
    shapes = {split: list(x.shape) for split, x in features.items()}
    lines = [(split, f"{n:,} images x {width} features") for split, (n, width) in shapes.items()]
    report = {"dataset": images.name, "out": str(out), "shapes": shapes}
    print_result(options.printing, report, [*lines, ("written to", str(out))])


Arrays = dict[str, np.ndarray]


def write_npz(path: Path, features: Arrays, labels: Arrays, images: ImageSet) -> None:
    """Write arrays ``<split>_features`` (N, W) float32, ``<split>_labels`` (N,) int64 and ``class_names``."""
    arrays = {f"{split}_features": x for split, x in features.items()}
    arrays |= {f"{split}_labels": y for split, y in labels.items()}
    arrays["class_names"] = np.array(images.class_names, dtype=np.str_)
    with replace_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_parquet(path: Path, features: Arrays, labels: Arrays, images: ImageSet) -> None:
    """Write one row per image: ``split``, ``label``, ``class_name`` and ``features`` (fixed-size list of float32)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for split, x in features.items():
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
        names = [images.class_names[label] for label in labels[split]]
        columns = {"split": [split] * len(x), "label": labels[split], "class_name": names, "features": values}
        tables.append(pa.table(columns))
    with replace_atomically(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
