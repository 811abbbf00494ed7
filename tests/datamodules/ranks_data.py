"""What each of several processes sees; see test_ranks.py."""

import pytorch_lightning as pl
import torch
from processes import ranks_trainer, report, start

from lightning_rectify.datamodules import LongTail, PadCrop, SampleStore, ShardDataModule

rank, world = start()


class Recorder(pl.LightningModule):
    def __init__(self, save_to=None):
        super().__init__()
        self.save_to = save_to
        self.net = torch.nn.Linear(64, 10)
        self.seen, self.evaluated, self.views = [], [], {}

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["index"].tolist())
        for index, image in zip(batch["index"].tolist(), batch["image"].double(), strict=True):
            self.views[f"{self.current_epoch}/{index}"] = float(image.square().sum())
        return torch.nn.functional.cross_entropy(self.net(batch["image"].flatten(1)), batch["label"])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 5 and self.save_to:
            self.trainer.save_checkpoint(self.save_to)

    def validation_step(self, batch, batch_idx):
        self.evaluated.append(batch["index"].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(folder, ckpt=None, save_to=None):
    pl.seed_everything(3, verbose=False)
    model, data = Recorder(save_to), ShardDataModule("digits", batch_size=50, augment=[PadCrop(2)])
    trainer = ranks_trainer(world, max_epochs=2, default_root_dir=folder, num_sanity_val_steps=0)
    trainer.fit(model, data, ckpt_path=ckpt)
    return model


def main(folder):
    results = {}
    checkpoint = f"{folder}/mid.ckpt"
    model = run(folder, save_to=checkpoint if world > 1 else None)
    results |= {"whole": model.seen, "evaluated": model.evaluated, "views": model.views}
    if world == 1:
        resumed = run(folder, ckpt=checkpoint)
        results |= {"after": resumed.seen, "after_evaluations": len(resumed.evaluated)}

    imbalanced = ShardDataModule("digits", batch_size=40 // world, imbalance=LongTail(0.1))
    imbalanced.setup()
    results["chosen"], results["class_counts"] = imbalanced.ids["train"], imbalanced.class_counts
    results["imbalanced"] = [batch["index"].tolist() for batch in imbalanced.train_dataloader()]

    store = SampleStore(10, fill=1.0)
    index, value = [torch.tensor([3, 3, 7]), torch.tensor([7, 3, 0])], torch.tensor([1.0, 2.0, 4.0])
    store.add(index[rank], value * (1 + rank))
    results["add"] = store.value.clone()
    store.assign(index[rank], value + 10 * rank)
    results["assign"] = store.value.clone()
    store.assign(index[rank], value, mask=torch.tensor([rank == 0] * 3))
    results["masked"] = store.value
    vectors = SampleStore(4, shape=(2,))
    vectors.add(torch.tensor([rank, 2]), torch.full((2, 2), 0.1) + rank)
    results["vectors"] = vectors.value
    if world > 1:
        torch.save(store.state_dict(), f"{folder}/store-{rank}.pt")
    report(results)


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
