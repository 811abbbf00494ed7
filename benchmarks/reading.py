"""Images a second out of a folder of PNG files, PNG shards and raw shards, at 32x32 pixels with one worker.

    python benchmarks/reading.py [--images cifar10.npz]

All three read every image once in random order, in batches of 128 of uint8 tensors, with files in the page cache, and
take turns. The folder is read as usual: torchvision's ImageFolder in a DataLoader. Without `--images` the pictures are
scikit-learn's digits enlarged to 32x32 RGB. A training step of a ResNet-8 on such a batch is timed beside them, to say
whether reading holds it up.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import interleaved, keep_freed_memory, write_result
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from lightning_rectify.backbones import ResNet
from lightning_rectify.datamodules import ShardDataModule, build_shards

BATCH = 128


def pictures(path: str | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (count, 32, 32, 3) uint8 and labels."""
    if path:
        with np.load(path, allow_pickle=False) as file:
            return file["train_images"][:count], file["train_labels"][:count]
    from sklearn.datasets import load_digits

    digits = load_digits()
    large = [
        np.asarray(Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)).convert("RGB"))
        for image in digits.images
    ]
    order = np.arange(count) % len(large)
    return np.stack(large)[order], digits.target[order]


def write_folder(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:06d}.png")


def shard_loader(source: Path, out: Path, encoding: str, workers: int):
    if not out.exists():
        build_shards(str(source), out, format=encoding, val=0.0, test=0.0)
    data = ShardDataModule(str(out), batch_size=BATCH, cache="none", workers=workers, drop_last=False)
    data.setup()
    return data.train_dataloader()


def training_step():
    model = ResNet(10, 3, depth=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    image, label = torch.rand(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(image), label).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="an .npz file with train_images (N, 32, 32, 3) and train_labels")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    images, labels = pictures(options.images, options.count)

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_folder(root / "folder", images, labels)
        np.savez(root / "images.npz", images=images, labels=labels)
        folder = DataLoader(ImageFolder(str(root / "folder"), PILToTensor()), BATCH, shuffle=True, num_workers=1)
        loaders = {
            "folder_png_1_worker": folder,
            "shards_png_1_worker": shard_loader(root / "images.npz", root / "png", "png", 1),
            "shards_raw_1_worker": shard_loader(root / "images.npz", root / "raw", "raw", 1),
            "shards_raw_no_worker": shard_loader(root / "images.npz", root / "raw", "raw", 0),
        }

        def epoch(loader):
            assert sum(len(batch["image"] if isinstance(batch, dict) else batch[0]) for batch in loader) == len(images)

        times = interleaved({k: lambda x=loader: epoch(x) for k, loader in loaders.items()}, options.rounds, warmup=1)
    step = interleaved({"step": training_step()}, 10)["step"]
    write_result(
        "reading",
        {
            "images": len(images),
            "pictures": Path(options.images).name if options.images else "digits enlarged to 32x32",
            "batch_size": BATCH,
            "rounds": options.rounds,
            "images_per_second": {key: round(len(images) / timing.median) for key, timing in times.items()},
            "times_the_folder": {
                key: round(times["folder_png_1_worker"].slower_than(timing), 2) for key, timing in times.items()
            },
            "resnet8_step_images_per_second": round(BATCH / step.median),
        },
    )


if __name__ == "__main__":
    main()
