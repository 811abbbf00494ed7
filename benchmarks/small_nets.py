"""Small networks and the data they are trained on, for claims about calibration."""

import torch
from torch import nn

from lightning_rectify.backbones import Backbone, PlainNet
from lightning_rectify.datamodules import LabelNoise, ShardDataModule, two_gaussians
from lightning_rectify.losses import mixup
from lightning_rectify.randomness import keyed_generator

TRAIN, BATCH, EPOCHS = 3000, 100, 40
CIFAR_TRAIN, CIFAR_EPOCHS = 10_000, 15


class Net(Backbone):
    """Two fully connected layers."""

    def __init__(self, pixels, classes, width=64):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 384), nn.ReLU(), nn.Linear(384, width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)

    def features(self, image):
        return self.body(image)

    def head(self, features):
        return self.classifier(features)


def train(image, label, classes, seed, alpha=0.0, stop=1.0, label_rule="same", epochs=EPOCHS, make=None):
    """A net trained with Adam; Mixup up to the share `stop` of training if alpha is above 0."""
    torch.manual_seed(seed)
    net = make() if make else Net(image[0].numel(), classes)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for epoch in range(epochs):
        generator = keyed_generator("claims", seed, epoch)
        for pick in torch.randperm(len(label), generator=generator).split(BATCH):
            x, y = image[pick], label[pick]
            if alpha and epoch < stop * epochs:
                x, target = mixup(x, y, alpha, label_rule=label_rule, generator=generator)
                loss = target.loss(net(x))
            else:
                loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def fashion(overlap):
    """Images (float) and noisy labels of the three splits: 3,000, 5,000 and 10,000."""
    noise = LabelNoise(overlap, splits=("train", "val", "test"))
    return _parts(ShardDataModule("fashion_mnist", cache="none", label_noise=noise), TRAIN)


def cifar10(file):
    """Images and labels of the three splits from an .npz file: 10,000, 5,000 and 10,000."""
    return _parts(ShardDataModule("cifar10", cache="none", build={"source": file}), CIFAR_TRAIN)


def cifar10_net():
    """Three convolutions; 10,000 images are learnt by heart in 15 epochs without augmentation."""
    mean, std = (0.4913, 0.4821, 0.4464), (0.2471, 0.2435, 0.2617)
    return PlainNet(10, channels=3, size=32, width=32, mean=mean, std=std)


def gaussians(gap, seed):
    image, label = two_gaussians(5000, gap, seed=seed)
    test = two_gaussians(10_000, gap, seed=1000 + seed)
    return {"train": (image[:3000], label[:3000]), "val": (image[3000:], label[3000:]), "test": test}


def _parts(data, trained):
    data.prepare_data()
    data.setup()
    parts = {}
    for split, count in (("train", trained), ("val", 5000), ("test", 10_000)):
        ids = data.ids[split]
        ids = ids[:: max(1, len(ids) // count)][:count]
        parts[split] = data.images(ids).float() / 255, torch.from_numpy(data.index.label[ids])
    return parts
