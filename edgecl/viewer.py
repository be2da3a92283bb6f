"""A copy of segments for programs that show MCAP, in which samples that are images are images.

Samples are journalled as their sources gave them, for replay to be exact. Here each one becomes a
`foxglove.CompressedImage` too, which Foxglove and Rerun know: a PNG, from which the same numbers can be read.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from PIL import Image

from edgecl import disk, inventory, journal, recovery, samples
from edgecl.errors import JournalError
from edgecl.recovery import Stop
from edgecl.segment import Channel, Writer, disk_error

TOPIC: Final = "/image"
TYPE: Final = "foxglove.CompressedImage"
SHAPES: Final = ((), (1,), (3,))
"""Of what stands behind height and width in an image."""


@dataclass(frozen=True)
class Copied:
    """What the copy has."""

    records: int
    images: int
    bytes_lost: int
    """Of segments that are torn."""


def copy(paths: Sequence[Path], out: Path) -> Copied:
    """Write the records of segments, directories and state directories into a new file.

    Raises JournalError: a path cannot be read, or the file cannot be written.
    """
    files = [file for path in paths for file in _files(path)]
    new = out.with_name(f".{out.name}.new")
    image, records, images, lost = _Images(), 0, 0, 0
    try:
        disk.remove(new)
        writer = Writer(new)
        try:
            for file in files:
                with file.open("rb") as opened:
                    for found in recovery.scan(opened):
                        if isinstance(found, Stop):
                            lost += found.bytes_lost
                            continue
                        for message in found.messages:
                            writer.add(*message)
                            records += 1
                            if message.channel.topic == "/sample" and (data := image.of(message.data)):
                                writer.add(image.channel, message.log_time_ns, message.sequence, data)
                                images += 1
            writer.seal()
            new.rename(out)
        finally:
            writer.close()
            disk.remove(new)
    except OSError as error:
        raise disk_error(out, error) from None
    return Copied(records, images, lost)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for folder in inventory.folders(path) for file in journal.segments(folder)]


class _Images:
    """Makes images of samples."""

    def __init__(self) -> None:
        field = descriptor_pb2.FieldDescriptorProto
        fields = (
            ("timestamp", 1, field.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
            ("data", 2, field.TYPE_BYTES, None),
            ("format", 3, field.TYPE_STRING, None),
            ("frame_id", 4, field.TYPE_STRING, None),
        )
        file = descriptor_pb2.FileDescriptorProto(
            name="foxglove/CompressedImage.proto",
            package="foxglove",
            syntax="proto3",
            dependency=[timestamp_pb2.DESCRIPTOR.name],
            message_type=[
                descriptor_pb2.DescriptorProto(
                    name="CompressedImage",
                    field=[
                        field(name=name, number=number, type=kind, type_name=other, label=field.LABEL_OPTIONAL)
                        for name, number, kind, other in fields
                    ],
                )
            ],
        )
        stamp = descriptor_pb2.FileDescriptorProto()
        timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
        pool = descriptor_pool.DescriptorPool()
        pool.Add(stamp)
        pool.Add(file)
        self._kind: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(TYPE))
        schema = descriptor_pb2.FileDescriptorSet(file=[stamp, file]).SerializeToString()
        self.channel: Final = Channel(TOPIC, TYPE, schema)

    def of(self, data: bytes) -> bytes | None:
        """The image of a sample; None where it is none."""
        record = journal.Sample.FromString(data)
        try:
            x = samples.array(record)
        except JournalError:
            return None
        if x.dtype.name != "uint8" or x.ndim < 2 or x.shape[2:] not in SHAPES or not x.size:
            return None
        png = io.BytesIO()
        Image.fromarray(x.reshape(x.shape[:2]) if x.shape[2:] == (1,) else x).save(png, "png")
        made = self._kind(data=png.getvalue(), format="png", frame_id="camera")
        made.timestamp.seconds, made.timestamp.nanos = divmod(record.stamp.wall_ns, 10**9)
        return bytes(made.SerializeToString())
