"""What sharing a training among several gloo workers gains on CPUs, and what losing one of them costs.

    python benchmarks/distributed.py                    # 1, 2 and 4 workers, then a restart under Ray Train
    python benchmarks/distributed.py --shares 1x1 2x1 --no-restart

Scaling: workers x threads share batches of the paper's model (ViT-Tiny, CIFAR-10's shape), in alternation, each
measurement in a process group of its own. A step is timed three ways: as it is, without the exchange of gradients
(``no_sync``), and the exchange of as many bytes alone. The share of the exchange that overlaps with the backward pass:

    overlap = 1 - (step - step without exchange) / exchange alone

Bytes are those that the loopback interface carries during the steps, to be compared with the 2 (n - 1) bytes a
parameter byte that a ring of n workers sends. With more workers than cores the cores are shared: scaling then shows
what the exchange costs, not what more cores would gain.

Restart: a Ray Train run of (1, 2) workers loses a worker to SIGKILL; the time from the kill to the next epoch's record,
compared with the time between two records before it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from components import made_images
from measuring import RESULTS, describe_machine, paired_ratio, spread, write_result
from training_step import RATIOS, settings

from pmae.components import PrincipalComponents
from pmae.training.loop import Training

SIZE = 32


def worker(
    rank: int, world_size: int, threads: int, port: int, folder: str, method: str, options: argparse.Namespace
) -> None:
    """One worker of a process group; rank 0 writes what was measured."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    images = np.load(f"{folder}/images.npy", mmap_mode="r")
    components = PrincipalComponents.load(f"{folder}/components.safetensors") if method == "pmae" else None

    def share(model: torch.nn.Module) -> torch.nn.Module:
        return torch.nn.parallel.DistributedDataParallel(model)

    training = Training(
        settings(method, options.batch, options.precision), images, components, seed=0, device=torch.device("cpu"),
        rank=rank, world_size=world_size, wrap=share if world_size > 1 else None,
    )  # fmt: skip
    gradients = torch.zeros(sum(p.numel() for p in training.model.parameters() if p.requires_grad))
    found: dict[str, Any] = {"gradient_bytes": gradients.numel() * 4}
    found |= {name: [] for name in ("step", "loopback_bytes", "without_exchange", "exchange")}
    timed_steps(training, 2)
    for _ in range(options.repeats):
        before = loopback_bytes()
        found["step"].append(timed_steps(training, options.steps))
        found["loopback_bytes"].append((loopback_bytes() - before) / options.steps)
        if world_size > 1:
            found["without_exchange"].append(timed_steps(training, options.steps, exchange=False))
            found["exchange"].append(timed_exchange(gradients, options.steps))
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


def timed_steps(training: Training, steps: int, exchange: bool = True) -> float:
    """Seconds of a step, with or without the exchange of gradients."""
    generators = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    wait = getattr(training.forward, "no_sync", nullcontext)
    batches, drawn = training.batches, 0
    dist.barrier()
    start = time.perf_counter()
    with nullcontext() if exchange else wait():
        while drawn < steps:
            for pixels in batches.epoch(drawn):
                draw = training.masks.draw(batches.batch_size, *generators, batches.shard)
                training._step(pixels, draw, 1e-4)
                drawn += 1
                if drawn == steps:
                    break
    dist.barrier()
    return (time.perf_counter() - start) / steps


def timed_exchange(gradients: torch.Tensor, steps: int) -> float:
    """Seconds of an all-reduce of as many bytes as the gradients have, alone."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(steps):
        dist.all_reduce(gradients)
    dist.barrier()
    return (time.perf_counter() - start) / steps


def loopback_bytes() -> int:
    """Bytes that the loopback interface has sent since the machine started."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def measure(world_size: int, threads: int, method: str, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """One process group, from start to end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (world_size, threads, port, folder, method, options), nprocs=world_size)
    return dict(torch.load(f"{folder}/found.pt"))


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Steps of every number of workers, in alternation over the rounds."""
    rows = [
        dict[str, Any](method=method, workers=workers, threads=threads)
        for method in options.methods
        for workers, threads in options.shares
    ]
    with tempfile.TemporaryDirectory() as folder:
        images = made_images(4096, SIZE)
        np.save(f"{folder}/images.npy", images)
        PrincipalComponents.fit(images).save(Path(folder) / "components.safetensors")
        for turn in range(options.rounds):
            for row in rows:
                found = measure(row["workers"], row["threads"], row["method"], folder, options)
                row["gradient_bytes"] = found.pop("gradient_bytes")
                for name, values in found.items():
                    if values:
                        row.setdefault(name, []).append(statistics.median(values))
                share = f"{row['method']} {row['workers']} x {row['threads']}"
                print(f"round {turn + 1}: {share}: {row['step'][-1]:.3f} s a step", flush=True)
    for row in rows:
        first = next(r for r in rows if r["method"] == row["method"])
        row["images_per_second"] = [options.batch / seconds for seconds in row["step"]]
        row["times_first"] = paired_ratio(row["images_per_second"], first["images_per_second"])
        if row["workers"] > 1:
            parts = zip(row["step"], row["without_exchange"], row["exchange"], strict=True)
            row["overlap"] = spread([1 - (step - without) / alone for step, without, alone in parts])
    return rows


def restart(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the kill of a worker of an elastic Ray Train run to its next record."""
    import pmae.training.distributed as distributed

    ray = distributed.ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records.txt"
        killed: list[float] = []
        threading.Thread(target=kill_one, args=(records, killed), daemon=True).start()
        config = settings("mae", 128, "fp32").with_values({"optim.epochs": 12, "optim.warmup_epochs": 1.0})
        result = distributed.PMAETrainer(
            config, made_images(1024, SIZE), num_workers=(1, 2), use_gpu=False, storage_path=folder, name="elastic",
            callbacks=[record_times(records)],
        ).fit()  # fmt: skip
        times = [float(line) for line in records.read_text().split()]
    ray.shutdown()
    before = [b - a for a, b in itertools.pairwise(times) if b <= killed[0]]
    after = next(t for t in times if t > killed[0])
    return {
        "epochs": len(result.history),
        "seconds_between_records": statistics.median(before),
        "seconds_from_kill_to_next_record": after - killed[0],
    }


def record_times(path: Path) -> Any:
    """A Ray Train callback that notes when each epoch was reported."""
    from ray.train import UserCallback

    class Times(UserCallback):
        def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
            with path.open("a") as file:
                file.write(f"{time.time()}\n")

    return Times()


def kill_one(records: Path, killed: list[float]) -> None:
    """Kill a Ray Train worker once three epochs are on record."""
    while not records.exists() or len(records.read_text().split()) < 3:
        time.sleep(0.05)
    for process in psutil.process_iter(["cmdline"]):
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or []):
            process.send_signal(signal.SIGKILL)
            killed.append(time.time())
            return


def share_of(text: str) -> tuple[int, int]:
    """``2x1``: two workers with a thread each."""
    workers, _, threads = text.partition("x")
    return int(workers), int(threads)


def print_table(result: dict[str, Any]) -> None:
    """Images per second, scaling, bytes and overlap."""
    print("method  workers x threads  images/s  times the first  MB a step  overlap")
    for row in result["scaling"]:
        overlap = f"{row['overlap']['median']:.0%}" if "overlap" in row else ""
        carried = statistics.median(row["loopback_bytes"]) / 1e6
        print(
            f"{row['method']:6}  {row['workers']} x {row['threads']:13}  "
            f"{statistics.median(row['images_per_second']):8.1f}  "
            f"{row['times_first']['median']:15.2f}  {carried:9.1f}  {overlap:>7}"
        )
    if result["restart"]:
        print(result["restart"])


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shares", type=share_of, nargs="+", default=[(1, 1), (1, 2), (2, 1), (4, 1)],
        help="workers x threads of each; all are compared with the first",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=sorted(RATIOS), default=list(RATIOS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="measurements in a process group")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-restart", action="store_true", help="leave out the run under Ray Train")
    parser.add_argument("--out", type=Path, default=RESULTS / "distributed-cpu.json")
    options = parser.parse_args()
    result = {
        "benchmark": "distributed",
        **describe_machine("cpu", ("torch", "ray", "numpy"), __file__),
        "batch": options.batch,
        "precision": options.precision,
        "scaling": scaling(options),
        "restart": None if options.no_restart else restart(options),
    }
    print_table(result)
    write_result(result, options.out)


if __name__ == "__main__":
    main()
