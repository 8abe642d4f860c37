"""Our reading of the protobuf equals SentencePiece's, and no damaged file does worse than a CheckpointError."""

import random
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import normalizers

from model.config import CheckpointError
from model.tokenization.sentencepiece_model import BYTE, CONTROL, UNKNOWN, SentencePieceModel
from tests.tokenizers.texts import lines, write_sentencepiece

TEXTS = lines(100)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unigram", {}),
        ("bpe", {"byte_fallback": True, "unk_id": 3, "bos_id": 1, "eos_id": 2, "pad_id": 0}),
        (
            "unigram",
            {
                "add_dummy_prefix": False,
                "remove_extra_whitespaces": False,
                "normalization_rule_name": "identity",
            },
        ),
    ],
)
def test_fields_are_those_that_sentencepiece_reads(
    kind: str, options: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "a.model"
    write_sentencepiece(file, kind, **options)
    ours = SentencePieceModel.read(file)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    proto = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    assert [(p.text, p.score) for p in ours.pieces] == [
        (theirs.id_to_piece(i), theirs.get_score(i)) for i in range(theirs.get_piece_size())
    ]
    for i, piece in enumerate(ours.pieces):
        assert (piece.type == CONTROL) == theirs.is_control(i)
        assert (piece.type == UNKNOWN) == theirs.is_unknown(i)
        assert (piece.type == BYTE) == theirs.is_byte(i)
    assert ours.kind == kind
    assert (ours.unk_id, ours.byte_fallback) == (theirs.unk_id(), proto.trainer_spec.byte_fallback)
    spec = proto.normalizer_spec
    assert ours.charsmap == spec.precompiled_charsmap
    assert ours.add_dummy_prefix == spec.add_dummy_prefix
    assert ours.remove_extra_whitespaces == spec.remove_extra_whitespaces
    assert ours.escape_whitespaces == spec.escape_whitespaces


def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    file = tmp_path / "a.model"
    write_sentencepiece(file, normalization_rule_name="identity")
    good = file.read_bytes()
    rng = random.Random(3)
    for turn in range(300):
        data = bytearray(good)
        if turn % 2:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randint(1, 8)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data)
        try:
            SentencePieceModel.read(file)
        except CheckpointError as fault:
            assert str(file) in str(fault)  # noqa: PT017 - either ending is right


def test_no_table_of_replacements_leads_the_library_out_of_bounds(tmp_path: Path) -> None:
    file = tmp_path / "a.model"
    write_sentencepiece(file)
    table = sentencepiece_model_pb2.ModelProto.FromString(
        file.read_bytes()
    ).normalizer_spec.precompiled_charsmap
    size = 4 + int.from_bytes(table[:4], "little")
    rng = random.Random(4)
    num_read = 0
    for _ in range(60):
        damaged = bytearray(table)
        for _ in range(rng.choice((1, 1, 50))):
            damaged[rng.randrange(4, size)] = rng.randrange(256)
        proto = sentencepiece_model_pb2.ModelProto()
        proto.pieces.add(piece="<unk>", score=0, type=UNKNOWN)
        proto.normalizer_spec.precompiled_charsmap = bytes(damaged)
        file.write_bytes(proto.SerializeToString())
        try:
            read = SentencePieceModel.read(file)
        except CheckpointError:
            continue
        num_read += 1
        for text in TEXTS:
            normalizers.Precompiled(read.charsmap).normalize_str(text)
    assert num_read > 0


def test_cut_table_of_replacements_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.model"
    write_sentencepiece(file)
    proto = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    proto.normalizer_spec.precompiled_charsmap = proto.normalizer_spec.precompiled_charsmap[:50_000]
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="table of replacements is cut off"):
        SentencePieceModel.read(file)
