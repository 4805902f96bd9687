"""How many values a message holds, counted in its bytes before anybody makes them.

Two bytes can be a message in a list: four megabytes of them take gRPC a quarter of a second and 200
megabytes to read, and us seconds to look at, in which nobody else is answered.
"""

from google.protobuf.descriptor import Descriptor, FieldDescriptor

VARINT, LENGTH = 0, 2
_BYTES = {1: 8, 5: 4, 3: 0, 4: 0}  # of the others; 3 and 4 are a group's two ends
_VARINT_BYTES = 10  # at most


def holds_more(most: int, data: bytes, kind: Descriptor) -> bool:
    """Whether a message of this kind holds more values than that; a message in it counts with every
    field that it may have, since each is looked at. Bytes that are no message hold what was found
    until then: the parser refuses them."""
    found = 0
    inside = [(memoryview(data), kind)]
    while inside:
        rest, kind = inside.pop()
        at = 0
        while at < len(rest) and found <= most:
            tag, at = _varint(rest, at)
            wire = tag & 7
            found += 1
            if wire == LENGTH:
                size, at = _varint(rest, at)
                value = rest[at : at + size]
                at += size
                field = kind.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    found += len(field.message_type.fields)
                    inside.append((value, field.message_type))
                elif field is not None and _is_numbers(field):
                    found += len(value)  # as many as there may be
            elif wire == VARINT:
                _, at = _varint(rest, at)
            elif wire in _BYTES:
                at += _BYTES[wire]
            else:
                break
    return found > most


def _is_numbers(field: FieldDescriptor) -> bool:
    """Whether its values may come in a row, under one length."""
    texts = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return field.is_repeated and field.type not in texts


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends; what is cut off is as long as it is."""
    number = 0
    for shift, byte in enumerate(data[at : at + _VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * shift
        at += 1
        if byte < 0x80:
            break
    return number, at
