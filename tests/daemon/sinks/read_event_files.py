#!/usr/bin/env python3
"""Reads a TensorBoard log folder with TensorBoard's own reader and prints, as JSON, what a user would see.

{"<folder below logdir>": {"scalars": {curve: [[step, wall_time, value], ...]}, "texts": {curve: [[step, text], ...]}}}
Every record's checksums are checked; a bad one is an error.
"""
import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


def check_records(path):
    """Walks the framing by itself, so that an unread rest or a bad sum is seen."""
    with open(path, "rb") as file:
        data = file.read()
    at = records = 0
    while at < len(data):
        header = data[at:at + 8]
        (length,) = struct.unpack("<Q", header)
        (sum_of_length,) = struct.unpack("<I", data[at + 8:at + 12])
        payload = data[at + 12:at + 12 + length]
        (sum_of_payload,) = struct.unpack("<I", data[at + 12 + length:at + 16 + length])
        if sum_of_length != masked_crc32c(header) or sum_of_payload != masked_crc32c(payload):
            raise SystemExit(f"{path}: bad checksum at byte {at}")
        at += 16 + length
        records += 1
    return records


def read_folder(folder):
    reader = EventAccumulator(folder, size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    tags = reader.Tags()
    scalars = {tag: [[e.step, e.wall_time, str(e.value)] for e in reader.Scalars(tag)] for tag in tags["scalars"]}
    texts = {}
    for tag in tags["tensors"]:
        assert reader.SummaryMetadata(tag).plugin_data.plugin_name == "text", tag
        texts[tag] = [[e.step, e.tensor_proto.string_val[0].decode()] for e in reader.Tensors(tag)]
    return {"scalars": scalars, "texts": texts}


def main():
    logdir = sys.argv[1]
    answer = {}
    for folder, _, files in sorted(os.walk(logdir)):
        event_files = [name for name in files if "tfevents" in name]
        if not event_files:
            continue
        for name in event_files:
            assert check_records(os.path.join(folder, name)) >= 1
        answer[os.path.relpath(folder, logdir)] = read_folder(folder)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
