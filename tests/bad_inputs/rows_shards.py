"""Mistakes in data, met from the command line. The kinds of faults inside shards are in tests/datamodules."""

import json

from table import FIT, Row

OWN = (*FIT, "--data.source", "shards")


def _shard(folder):
    return sorted((folder / "shards").glob("*.tar"))[0]


def _remove(folder):
    _shard(folder).unlink()


def _empty(folder):
    _shard(folder).write_bytes(b"")


def _cut(folder):
    _shard(folder).write_bytes(_shard(folder).read_bytes()[:-3000])


def _no_manifest(folder):
    (folder / "shards" / "manifest.json").unlink()


def _old_manifest(folder):
    path = folder / "shards" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))


ROWS = [
    Row("unknown source", (*FIT, "--data.source", "digitz"), ("digitz", "digits")),
    Row("missing shard", OWN, (".tar is missing",), _remove),
    Row("empty shard", OWN, (".tar is empty",), _empty),
    Row("truncated shard", OWN, (".tar is cut short",), _cut),
    Row("missing manifest", OWN, ("manifest.json",), _no_manifest),
    Row("manifest of another version", OWN, ("format 0", "build the shards again"), _old_manifest),
    Row("classes of another set", (*OWN, "--data.classes", 5), ("data.classes is 5", "have 10")),
    Row("size of another set", (*OWN, "--data.size", 28), ("data.size is 28", "have 8")),
    Row("pattern without a shard", (*FIT, "--data.source", "none-{000..003}.tar"), ("none-",)),
    Row("shell command as shards", (*FIT, "--data.source", "pipe:touch pwned"), ("pipe:",)),
]
