"""Field numbers are those of onnx.proto; fields without a name here are kept."""

import onnx
import pytest

from runtimes.onnx import protobuf

NESTED = {
    "TypeProtoTensor": onnx.TypeProto.Tensor,
    "Dimension": onnx.TensorShapeProto.Dimension,
}


MESSAGES = {each.__name__: each for each in protobuf.Message.__subclasses__()}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_numbers_are_those_of_onnx(message):
    theirs = NESTED.get(message.__name__) or getattr(onnx, message.__name__)
    fields = theirs.DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in message.NUMBERS} == message.NUMBERS


def test_constants_are_those_of_onnx():
    ours, theirs = protobuf.AttributeProto, onnx.AttributeProto
    assert (ours.FLOAT, ours.INT) == (theirs.FLOAT, theirs.INT)
    assert (ours.GRAPH, ours.INTS) == (theirs.GRAPH, theirs.INTS)
    ours, theirs = protobuf.TensorProto, onnx.TensorProto
    assert (ours.FLOAT, ours.INT64) == (theirs.FLOAT, theirs.INT64)
    assert ours.EXTERNAL == theirs.EXTERNAL


def test_a_message_is_read_by_onnx():
    ours = protobuf.AttributeProto(name="a", ints=[-1, 0, 300], f=0.5, type=7)
    theirs = onnx.AttributeProto.FromString(bytes(ours))
    assert (theirs.name, [*theirs.ints], theirs.f) == ("a", [-1, 0, 300], 0.5)


def test_unknown_fields_stay_in_their_place():
    model = onnx.ModelProto(ir_version=8, producer_name="torch", domain="d", doc_string="text")
    data = model.SerializeToString(deterministic=True)
    ours = protobuf.ModelProto(data)
    assert ours.integer("ir_version") == 8
    assert bytes(ours) == data
    ours.remove("ir_version")
    ours.add("ir_version", 9)
    model.ir_version = 9
    assert onnx.ModelProto.FromString(bytes(ours)) == model
