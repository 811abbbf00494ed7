"""What the tests of attacks share."""

import torch


def batch(n=16, size=8):
    """Images (n, 3, size, size), the first two at the edges of the cube, and labels of 5 classes."""
    draw = torch.Generator().manual_seed(5)
    image = torch.rand(n, 3, size, size, generator=draw)
    image[0], image[1] = 0, 1
    return image, torch.randint(5, (n,), generator=draw)


def generator(seed=7):
    return torch.Generator().manual_seed(seed)
