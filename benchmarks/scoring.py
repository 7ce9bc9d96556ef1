"""Scoring speed: our engines compared with TIAToolbox and a plain loop as in WSInfer.

Same slide, same weights, same patches; every case in a separate process::

    python -m benchmarks.scoring --slide SLIDE [--architecture densenet121] [--device cuda] [--json OUT.json]
    python -m benchmarks.scoring --slide SLIDE --model MODEL --int8 MODEL-int8   # of pathology models quantise MODEL

``bare`` predicts patches in memory and is the upper limit of ``pipeline``, which reads them from the slide.
``loop`` is the usual approach: OpenSlide's ``read_region``, a resize, a DataLoader and a plain fp32 network.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

MPP = 1.0
CASES = ("loop", "tiatoolbox", "torch-exact", "torch", "openvino-exact", "openvino")


def bundle(arguments, folder):
    """Return the given bundle, else the shipped one for DenseNet121 at 224 px, else one with random weights."""
    from pathology.bundle.catalogue import load_bundle

    architecture, patch = arguments.architecture, arguments.patch
    if arguments.model:
        model = load_bundle(arguments.model)
        if arguments.case == "openvino-int8":
            quantised = load_bundle(arguments.int8)
            if quantised.card.weights_sha256 != model.card.weights_sha256:
                raise SystemExit("the bundles of --int8 and --model have different weights")
            return quantised
        return model
    if architecture == "densenet121" and patch == 224:
        return load_bundle("osteosarcoma-viability")
    from pathology.testing.random_bundle import write_random_bundle

    target = Path(folder) / f"random-{architecture.replace('_', '-')}"
    if not target.exists():
        write_random_bundle(target, architecture=architecture, patch=patch)
    return load_bundle(target)


def plan(slide, patch):
    """Return all patches of the slide, with or without tissue, so that every case uses the same ones."""
    from pathology.settings import GridSettings
    from pathology.slide.open import open_reader
    from pathology.slide.scale import resolve_mpp
    from pathology.slide.thumbnail import thumbnail
    from pathology.slide.tissue.detect import find_tissue
    from pathology.tiling.grid import Grid, TissueShare
    from pathology.tiling.plan import plan_tiles

    with open_reader(slide) as reader:
        scale = resolve_mpp(reader).mpp
        overview = thumbnail(reader, scale, 8.0)
        mask = find_tissue(overview.pixels, overview.mpp).mask
        grid = Grid(GridSettings(patch=patch, mpp=MPP, stride=patch), reader.dimensions, scale)
        return plan_tiles(grid, TissueShare(mask, reader.dimensions))


def usage():
    """Return CPU-seconds of this process and its children, and the peak memory of the largest in MiB."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return seconds, max(own.ru_maxrss, children.ru_maxrss) / 1024


def result(probabilities, count, began, cpu):
    """Return the measurements of one case."""
    wall = time.perf_counter() - began
    seconds, memory = usage()
    return {
        "patches": count,
        "seconds": wall,
        "patches_per_s": count / wall,
        "patches_per_cpu_s": count / max(seconds - cpu, 1e-9),
        "cpu_seconds": seconds - cpu,
        "peak_mib": memory,
        "probabilities": None if probabilities is None else np.asarray(probabilities, float).round(6).tolist(),
    }


class Busy:
    """GPU utilisation, sampled ten times per second within a ``with`` statement."""

    def __init__(self, device):
        self.device, self.shares = device, []

    def __enter__(self):
        if self.device:
            self.over = threading.Event()
            self.thread = threading.Thread(target=self.sample)
            self.thread.start()
        return self

    def sample(self):
        """Query the driver until stopped."""
        import torch

        while not self.over.wait(0.1):
            self.shares.append(torch.cuda.utilization())

    def __exit__(self, *exception):
        if self.device:
            self.over.set()
            self.thread.join()

    def metrics(self):
        """Percentage of time in which a kernel ran, as reported by the driver."""
        return {"gpu_busy_percent": float(np.mean(self.shares))} if self.shares else {}


def hold_patches(blocks, patches, count):
    """Read patches into memory, spread over the slide for variety."""
    held = []
    for k in np.linspace(0, len(patches.blocks) - 1, len(patches.blocks)).astype(int)[
        :: max(1, len(patches.blocks) // 24)
    ]:
        held.append(blocks.read(int(patches.blocks[k]), patches.positions[patches.of_block(k)]).pixels)
        if sum(map(len, held)) >= count:
            break
    held = np.concatenate(held)
    return np.concatenate([held] * -(-count // len(held)))[:count]


def rate_in_memory(engine, held, seconds):
    """Return patches per second of an engine on patches in memory."""
    engine.predict(held[: engine.preferred_batch])
    rounds, began = 0, time.perf_counter()
    while not rounds or time.perf_counter() - began < seconds:
        for start in range(0, len(held), engine.preferred_batch):
            engine.predict(held[start : start + engine.preferred_batch])
        rounds += 1
    return rounds * len(held) / (time.perf_counter() - began)


def engine_case(name, model, slide, arguments):
    """Measure our engine: bare on patches in memory, then the pipeline from the slide."""
    from contextlib import ExitStack

    from pathology.inference.engines.select import make_engine
    from pathology.inference.reading.pipeline import predict_blocks
    from pathology.inference.reading.processes import ReadingProcesses
    from pathology.inference.reading.threads import ReadingThreads
    from pathology.slide.open import open_reader
    from pathology.tiling.blocks import BlockReader

    kind, _, exact = name.removesuffix("-int8").partition("-")
    patches = plan(slide, arguments.patch)
    threads = arguments.threads or None
    engine = make_engine(model, kind=kind, device=arguments.device, precision=exact or "fast", threads=threads)
    ks = list(range(len(patches.blocks)))
    nothing = np.zeros((engine.preferred_batch, engine.classes), np.float32)
    metrics = {}
    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(slide))
        blocks = BlockReader(reader, patches.grid)
        held = hold_patches(blocks, patches, engine.preferred_batch * max(2, -(-128 // engine.preferred_batch)))
        if arguments.processes:
            processes = stack.enter_context(ReadingProcesses(arguments.processes))
            source = stack.enter_context(processes.slide(slide, patches))
        else:
            source = stack.enter_context(ReadingThreads(blocks, patches, arguments.readers))

        def stream(predict):
            return list(predict_blocks(predict, engine.classes, engine.preferred_batch, source, patches, ks))

        stream(lambda batch: nothing[: len(batch)]) if arguments.processes else None  # the processes start
        if arguments.device or arguments.reading:
            began = time.perf_counter()
            stream(lambda batch: nothing[: len(batch)])
            metrics["reading_patches_per_s"] = len(patches) / (time.perf_counter() - began)
        metrics["bare_patches_per_s"] = rate_in_memory(engine, held, arguments.seconds)
        if hasattr(engine, "fast"):
            metrics["bare_without_correction"] = rate_in_memory(engine.fast, held, arguments.seconds / 2)
        cpu, began = usage()[0], time.perf_counter()
        if hasattr(engine, "rescored"):
            engine.rescored = engine.seen = 0
        with Busy(arguments.device) as busy:
            found = stream(engine.predict)
            classes = len(model.card.classes)  # further outputs of an engine, such as a distance, are not probabilities
            predicted = np.concatenate([block.probabilities[:, :classes] for block in found])
            took = result(predicted, len(patches), began, cpu)
        # Measured again, since the bare rate can change within a minute on a shared machine.
        again = rate_in_memory(engine, held, arguments.seconds)
    metrics = took | metrics | busy.metrics()
    metrics["bare_patches_per_s"] = (metrics["bare_patches_per_s"] + again) / 2
    metrics["of_bare"] = metrics["patches_per_s"] / metrics["bare_patches_per_s"]
    if hasattr(engine, "rescored"):
        metrics["rescored_share"] = engine.rescored / max(1, engine.seen)
    return metrics


def loop_case(model, slide, arguments):
    """Measure the usual approach: OpenSlide regions, resized, through a DataLoader, into a plain fp32 network."""
    import openslide
    import torch
    from PIL import Image

    patches = plan(slide, arguments.patch)
    card = model.card
    mean = torch.tensor(card.normalisation.mean).view(3, 1, 1)
    std = torch.tensor(card.normalisation.std).view(3, 1, 1)
    extent = round(patches.grid.patch_extent)

    class Regions(torch.utils.data.Dataset):
        slide = None

        def __len__(self):
            return len(patches)

        def __getitem__(self, i):
            if self.slide is None:
                self.slide = openslide.OpenSlide(str(slide))
            x, y = map(int, patches.coords[i])
            region = self.slide.read_region((x, y), 0, (extent, extent)).convert("RGB")
            region = region.resize((arguments.patch, arguments.patch), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(region)).permute(2, 0, 1).float() / 255
            return (pixels - mean) / std

    device = torch.device(arguments.device or "cpu")
    network = model.network().to(device)
    count = len(patches)
    began, cpu = time.perf_counter(), usage()[0]
    found = []
    loader = torch.utils.data.DataLoader(Regions(), batch_size=32, num_workers=arguments.loaders)
    with torch.inference_mode():
        for batch in loader:
            found.append(torch.softmax(network(batch.to(device)), 1).cpu().numpy())
            if arguments.limit and sum(map(len, found)) >= arguments.limit:
                count = sum(map(len, found))
                break
    return result(np.concatenate(found), count, began, cpu)


def tiatoolbox_case(model, slide, arguments):
    """Measure TIAToolbox's PatchPredictor with the same network."""
    import torch
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor
    from tiatoolbox.models.models_abc import ModelABC

    mean = torch.tensor(model.card.normalisation.mean)
    std = torch.tensor(model.card.normalisation.std)

    class Network(ModelABC):
        def __init__(self):
            super().__init__()
            self.network = model.network()

        def forward(self, images):
            return torch.softmax(self.network(images), 1)

        @staticmethod
        def preproc(image):
            return image

        @staticmethod
        def postproc(image):
            return image

        @staticmethod
        def infer_batch(network, batch, *, device):
            images = ((batch.to(device).float() / 255 - mean.to(device)) / std.to(device)).permute(0, 3, 1, 2)
            network.eval()
            with torch.inference_mode():
                return network(images.contiguous()).cpu().numpy()

    configuration = IOPatchPredictorConfig(
        input_resolutions=[{"units": "mpp", "resolution": MPP}],
        patch_input_shape=[arguments.patch, arguments.patch],
        stride_shape=[arguments.patch, arguments.patch],
    )
    predictor = PatchPredictor(
        Network(), batch_size=32, num_workers=arguments.loaders, device=arguments.device or "cpu", verbose=False
    )
    with tempfile.TemporaryDirectory() as scratch:
        began, cpu = time.perf_counter(), usage()[0]
        output = predictor.run(
            [Path(slide)],
            patch_mode=False,
            ioconfig=configuration,
            save_dir=Path(scratch) / "out",
            output_type="zarr",
            return_probabilities=True,
        )
        import zarr

        store = zarr.open(str(next(iter(output.values()))), mode="r")
        probabilities, corners = np.asarray(store["probabilities"]), np.asarray(store["coordinates"])[:, :2]
    metrics = result(None, len(probabilities), began, cpu)
    # It includes patches beyond the slide boundary, in a different order; match ours by grid position.
    places = {tuple(place): row for row, place in enumerate((corners // arguments.patch).tolist())}
    ours = plan(slide, arguments.patch)
    wanted = np.rint(ours.coords / (ours.grid.scale * arguments.patch)).astype(int).tolist()
    metrics["probabilities"] = probabilities[[places[tuple(place)] for place in wanted]].astype(float).round(6).tolist()
    return metrics


WSINFER = """
import json, resource, sys, time
from wsinfer.modellib.models import LocalModelTorchScript
from wsinfer.modellib.run_inference import run_inference
from wsinfer.patchlib import segment_and_patch_directory_of_slides
from wsinfer_zoo.client import ModelConfiguration
slides, out, model, configuration, loaders = sys.argv[1:]
configuration = ModelConfiguration.from_dict(json.load(open(configuration)))
usage = lambda: [sum(u[:2]) for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))]
began, cpu = time.perf_counter(), sum(usage())
segment_and_patch_directory_of_slides(
    slides, out, configuration.patch_size_pixels, configuration.spacing_um_px, min_object_size_um2=0
)
failed = run_inference(slides, out, LocalModelTorchScript(configuration, model), 32, int(loaders))
wall, cpu = time.perf_counter() - began, sum(usage()) - cpu
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
figures = {"failed": [list(f) for f in failed], "seconds": wall, "cpu_seconds": cpu, "peak_mib": peak / 1024}
print("TOOK " + json.dumps(figures))
"""
"""Run by the interpreter of an environment with WSInfer, which needs zarr below 3.  Its command line first queries a
model hub, so the functions it calls are called directly."""


def wsinfer_case(model, slide, arguments):
    """Measure WSInfer with the same network as TorchScript; it detects tissue with its own thresholds."""
    import torch

    card = model.card
    transform = [
        {"name": "Resize", "arguments": {"size": arguments.patch}},
        {"name": "ToTensor"},
        {
            "name": "Normalize",
            "arguments": {"mean": list(card.normalisation.mean), "std": list(card.normalisation.std)},
        },
    ]
    configuration = {
        "spec_version": "1.0",
        "architecture": card.architecture,
        "num_classes": len(card.classes),
        "class_names": list(card.classes),
        "name": "benchmark",
        "patch_size_pixels": arguments.patch,
        "spacing_um_px": MPP,
        "transform": transform,
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "config.json").write_text(json.dumps(configuration))
        with torch.inference_mode():
            traced = torch.jit.trace(model.network(), torch.zeros(1, 3, arguments.patch, arguments.patch))
        traced.save(str(scratch / "model.pt"))
        (scratch / "slides").mkdir()
        (scratch / "slides" / slide.name).symlink_to(slide.resolve())
        command = [str(arguments.wsinfer), "-c", WSINFER, str(scratch / "slides"), str(scratch / "out")]
        command += [str(scratch / "model.pt"), str(scratch / "config.json"), str(arguments.loaders)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        line = next((text for text in done.stdout.splitlines() if text.startswith("TOOK ")), None)
        if line is None:
            raise SystemExit((done.stderr.strip().splitlines() or ["no output"])[-1])
        metrics = json.loads(line.removeprefix("TOOK "))
        table = next((scratch / "out").glob("model-outputs*/*.csv"))
        count = len(table.read_text().splitlines()) - 1
    rates = {"patches_per_s": count / metrics["seconds"], "patches_per_cpu_s": count / metrics["cpu_seconds"]}
    return metrics | {"patches": count, "probabilities": None} | rates


def one_case(arguments):
    """Run one case and print its measurements as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        model = bundle(arguments, folder)
        arguments.patch = model.card.patch
        if arguments.case == "loop":
            metrics = loop_case(model, arguments.slide, arguments)
        elif arguments.case == "wsinfer":
            metrics = wsinfer_case(model, arguments.slide, arguments)
        elif arguments.case == "tiatoolbox":
            metrics = tiatoolbox_case(model, arguments.slide, arguments)
        else:
            metrics = engine_case(arguments.case, model, arguments.slide, arguments)
    print("FIGURES " + json.dumps(metrics))


def agreement(metrics, reference):
    """Return the difference of probabilities from fp32."""
    if metrics["probabilities"] is None or reference is None:
        return {}
    got, expected = np.array(metrics["probabilities"]), np.array(reference)
    count = min(len(got), len(expected))
    got, expected = got[:count], expected[:count]
    return {
        "n": count,
        "mean_difference": float(np.abs(got - expected).mean()),
        "largest_difference": float(np.abs(got - expected).max()),
        "same_argmax": float((got.argmax(1) == expected.argmax(1)).mean()),
        "slide_difference": float(np.abs(got.mean(0) - expected.mean(0)).max()),
    }


def main():
    """Run all cases, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--architecture", default="densenet121")
    parser.add_argument("--patch", type=int, default=224)
    parser.add_argument("--model", help="bundle of all cases; overrides --architecture and --patch")
    parser.add_argument(
        "--int8", help="bundle with the same weights quantised to 8-bit integers, as an additional case"
    )
    parser.add_argument("--device")
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--case")
    parser.add_argument("--readers", type=int, default=2, help="blocks read ahead")
    parser.add_argument("--processes", type=int, default=0, help="number of reading processes, instead of threads")
    parser.add_argument("--reading", action="store_true", help="also measure reading only")
    parser.add_argument("--threads", type=int, default=0, help="cores of our engines; 0: all")
    parser.add_argument("--loaders", type=int, default=0, help="DataLoader processes of the other programs")
    parser.add_argument("--seconds", type=float, default=5, help="duration of the bare engine run")
    parser.add_argument("--limit", type=int, default=0, help="number of patches after which the loop is stopped")
    parser.add_argument("--wsinfer", type=Path, help="Python of an environment with WSInfer, to measure it too")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--raw", type=Path, help="folder for the result of each case, so that cases can be run separately"
    )
    arguments = parser.parse_args()
    if arguments.case:
        one_case(arguments)
        return
    rows = {}
    if arguments.int8 and not arguments.model:
        parser.error("--int8 requires --model")
    further = [name for name, wanted in (("openvino-int8", arguments.int8), ("wsinfer", arguments.wsinfer)) if wanted]
    for case in dict.fromkeys((*arguments.cases, *further)):
        kept = arguments.raw / f"{case}.json" if arguments.raw else None
        if kept is not None and kept.exists():
            rows[case] = json.loads(kept.read_text())
            continue
        command = [sys.executable, "-m", "benchmarks.scoring", *sys.argv[1:], "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        line = next((text for text in done.stdout.splitlines() if text.startswith("FIGURES ")), None)
        if line is None:
            print(f"{case}: did not run: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
            continue
        rows[case] = json.loads(line.removeprefix("FIGURES ")) | {"load": os.getloadavg()[0]}
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(rows[case]))
    reference = rows.get("torch-exact", rows.get("loop", {})).get("probabilities")
    print(f"{'case':16}{'patches/s':>10}{'a CPU-s':>9}{'bare':>8}{'of bare':>9}{'MiB':>7}  agreement with fp32")
    for case, metrics in rows.items():
        metrics["agreement"] = agreement(metrics, reference)
        near = metrics["agreement"]
        said = (
            f"mean {near['mean_difference']:.5f}, max {near['largest_difference']:.4f}, argmax "
            f"{near['same_argmax']:.2%}, slide {near['slide_difference']:.5f} (n={near['n']})"
            if near
            else ""
        )
        print(
            f"{case:16}{metrics['patches_per_s']:>10.1f}{metrics['patches_per_cpu_s']:>9.1f}"
            f"{metrics.get('bare_patches_per_s', 0):>8.1f}{metrics.get('of_bare', 0):>9.1%}{metrics['peak_mib']:>7.0f}"
            f"  {said}"
        )
        del metrics["probabilities"]
    if arguments.json:
        arguments.json.write_text(json.dumps({"options": vars(arguments), "cases": rows}, indent=1, default=str))


if __name__ == "__main__":
    main()
