#!/usr/bin/env python3
"""Reads a TensorBoard log folder with TensorBoard's own reader and prints, as JSON, what a user would see.

{"<folder below logdir>": {"scalars": {curve: [[step, wall_time, value], ...]},
                           "texts": {curve: [[step, text, ...], ...]},
                           "histograms": {curve: [[step, min, max, count, [limit, ...], [bucket, ...]], ...]},
                           "images": {curve: [[step, height, width, [byte of the decoded picture, ...]], ...]},
                           "shown": {curve: [step, ...]},   # by the plug-ins' reader, that the pages have
                           "events": records of all files, "starts": [step, ...]}}
Every record's checksums are checked; a bad one is an error.
"""
import json
import os
import struct
import sys
import zlib

from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


def check_records(path):
    """Walks the framing by itself, so that an unread rest or a bad sum is seen."""
    with open(path, "rb") as file:
        data = file.read()
    at = records = 0
    starts = []
    while at < len(data):
        header = data[at:at + 8]
        (length,) = struct.unpack("<Q", header)
        (sum_of_length,) = struct.unpack("<I", data[at + 8:at + 12])
        payload = data[at + 12:at + 12 + length]
        (sum_of_payload,) = struct.unpack("<I", data[at + 12 + length:at + 16 + length])
        if sum_of_length != masked_crc32c(header) or sum_of_payload != masked_crc32c(payload):
            raise SystemExit(f"{path}: bad checksum at byte {at}")
        event = Event.FromString(payload)
        if event.session_log.status == SessionLog.START:
            starts.append(event.step)
        at += 16 + length
        records += 1
    return records, starts


def pixels(image):
    """Of a PNG, without its filter bytes; every chunk's sum is checked."""
    png = image.encoded_image_string
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, head = 8, b"", None
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        body = png[at + 8:at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + body), kind
        if kind == b"IHDR":
            head = struct.unpack(">IIBBBBB", body)
        if kind == b"IDAT":
            data += body
        at += 12 + length
    width, height, _, colour, *_ = head
    assert (width, height) == (image.width, image.height)
    row = width * {0: 1, 2: 3, 6: 4}[colour]
    raw = zlib.decompress(data)
    assert len(raw) == height * (row + 1)
    return [byte for y in range(height) for byte in raw[y * (row + 1) + 1:(y + 1) * (row + 1)]]


def read_folder(folder):
    reader = EventAccumulator(folder, size_guidance={"scalars": 0, "tensors": 0, "histograms": 0, "images": 0})
    reader.Reload()
    tags = reader.Tags()
    scalars = {tag: [[e.step, e.wall_time, str(e.value)] for e in reader.Scalars(tag)] for tag in tags["scalars"]}
    texts = {}
    for tag in tags["tensors"]:
        assert reader.SummaryMetadata(tag).plugin_data.plugin_name == "text", tag
        texts[tag] = [[e.step] + [text.decode() for text in e.tensor_proto.string_val] for e in reader.Tensors(tag)]
        for e in reader.Tensors(tag):
            assert [d.size for d in e.tensor_proto.tensor_shape.dim] == [len(e.tensor_proto.string_val)]
    histograms = {tag: [[e.step, h.min, h.max, h.num, list(h.bucket_limit), list(h.bucket)]
                        for e in reader.Histograms(tag) for h in [e.histogram_value]] for tag in tags["histograms"]}
    images = {tag: [[e.step, e.height, e.width, pixels(e)] for e in reader.Images(tag)] for tag in tags["images"]}
    plugins = plugin_event_accumulator.EventAccumulator(folder, tensor_size_guidance={"scalars": 0, "text": 0, "histograms": 0})
    plugins.Reload()
    shown = {tag: [e.step for e in plugins.Tensors(tag)] for tag in plugins.Tags()["tensors"]}
    return {"scalars": scalars, "texts": texts, "histograms": histograms, "images": images, "shown": shown}


def main():
    logdir = sys.argv[1]
    answer = {}
    for folder, _, files in sorted(os.walk(logdir)):
        event_files = [name for name in files if "tfevents" in name]
        if not event_files:
            continue
        events, starts = 0, []
        for name in sorted(event_files):
            records, started = check_records(os.path.join(folder, name))
            assert records >= 1
            events += records
            starts += started
        answer[os.path.relpath(folder, logdir)] = read_folder(folder) | {"events": events, "starts": starts}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
