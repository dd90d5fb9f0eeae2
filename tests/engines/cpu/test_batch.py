"""Batches lay out chunks of several sequences as rows."""

from dataclasses import replace

import numpy as np

from gemlora.engines.contract import GenerateRequest, Sampling
from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.sequence import Sequence
from gemlora.kernels import LoraWeights


def sequence(
    tokens: list[int], computed: int = 0, blocks: list[int] | None = None, adapter: LoraWeights | None = None
) -> Sequence:
    request = GenerateRequest("", tuple(tokens), 1, Sampling(seed=0), ())
    return Sequence(request, 0, tokens, adapter, blocks or [0], computed)


def test_rows_are_the_next_tokens_behind_the_computed_ones() -> None:
    batch = Batch.of([Chunk(sequence([10, 11, 12, 13, 14], computed=2), 2)])
    assert batch.tokens.tolist() == [12, 13]
    assert batch.positions.tolist() == [2, 3]
    assert batch.tokens.dtype == batch.positions.dtype == np.int32


def test_only_chunks_that_reach_the_last_token_want_logits() -> None:
    cut, whole, decoding = sequence([1, 2, 3]), sequence([4, 5]), sequence([6, 7, 8], computed=2)
    batch = Batch.of([Chunk(cut, 2), Chunk(whole, 2), Chunk(decoding, 1)])
    assert batch.tokens[batch.logit_rows].tolist() == [5, 8]
    assert [chunk.sequence for chunk in batch.chunks if chunk.completes] == [whole, decoding]


def test_a_draft_follows_the_last_token_and_wants_logits_like_it() -> None:
    chunks = [Chunk(sequence([5], adapter=LoraWeights("red", {})), 1), Chunk(sequence([6, 7], computed=1), 1, (8, 9))]
    batch = Batch.of([*chunks, Chunk(sequence([1, 2]), 1)])
    assert batch.tokens.tolist() == [7, 8, 9, 1, 5]
    assert batch.positions.tolist() == [1, 2, 3, 0, 0]
    assert batch.sequence_of_row.tolist() == [0, 0, 0, 1, 2]
    assert batch.logit_rows.tolist() == [0, 1, 2, 4]
    assert batch.segments.ends.tolist() == [4, 5]


def test_a_batch_of_cut_prompts_wants_no_logits() -> None:
    batch = Batch.of([Chunk(sequence([1, 2, 3]), 2)])
    assert batch.logit_rows.shape == (0,)
    assert batch.logit_rows.dtype == np.int32


def test_each_row_knows_its_sequence_and_block_tables_are_padded() -> None:
    short, long = sequence([1], blocks=[7]), sequence(list(range(70)), blocks=[3, 9, 4])
    batch = Batch.of([Chunk(short, 1), Chunk(long, 2)])
    assert batch.sequence_of_row.tolist() == [0, 1, 1]
    assert batch.block_tables.tolist() == [[7, 0, 0], [3, 9, 4]]
    assert batch.block_tables.dtype == batch.sequence_of_row.dtype == np.int32


def test_rows_with_the_same_adapter_become_one_segment() -> None:
    red, blue = LoraWeights("red", {}), LoraWeights("blue", {})
    chunks = [
        Chunk(sequence([1], adapter=red), 1),
        Chunk(sequence([2], adapter=None), 1),
        Chunk(sequence([3, 3], adapter=blue), 2),
        Chunk(sequence([4], adapter=red), 1),
        Chunk(sequence([5], adapter=None), 1),
    ]
    batch = Batch.of(chunks)
    assert batch.segments.adapters == (None, blue, red)
    assert batch.segments.ends.tolist() == [2, 4, 6]
    assert batch.tokens.tolist() == [2, 5, 3, 3, 1, 4]


def test_the_logit_rows_are_a_batch_of_the_same_chunks() -> None:
    red = LoraWeights("red", {})
    cut, whole = sequence([1, 2, 3], blocks=[4]), sequence([5, 6, 7], computed=1, blocks=[8])
    decoding = sequence([9, 10], computed=1, blocks=[6], adapter=red)
    batch = Batch.of([Chunk(cut, 2), Chunk(whole, 2), Chunk(decoding, 1, (11,))])
    wanted = batch.of_logit_rows()
    assert wanted.tokens.tolist() == [7, 10, 11]
    assert wanted.positions.tolist() == [2, 1, 2]
    assert wanted.block_tables[wanted.sequence_of_row].tolist() == [[8], [6], [6]]
    assert [wanted.chunks[index].sequence for index in wanted.sequence_of_row] == [whole, decoding, decoding]
    assert wanted.segments.adapters == (None, red)
    assert wanted.segments.ends.tolist() == [1, 3]
    assert wanted.logit_rows.tolist() == [0, 1, 2]
    arrays = (wanted.tokens, wanted.positions, wanted.sequence_of_row, wanted.logit_rows)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}


def test_a_batch_of_logit_rows_alone_is_its_own() -> None:
    batch = Batch.of([Chunk(sequence([1, 2], computed=1), 1), Chunk(sequence([3]), 1, (4, 5))])
    assert batch.of_logit_rows() is batch


def test_logit_rows_keep_their_order() -> None:
    batch = Batch.of([Chunk(sequence([1, 2, 3]), 3)])
    wanted = replace(batch, logit_rows=np.array([2, 0, 1], np.int32)).of_logit_rows()
    assert wanted.tokens.tolist() == [3, 1, 2]
    assert wanted.logit_rows.tolist() == [0, 1, 2]


def test_a_batch_without_logit_rows_leaves_none() -> None:
    wanted = Batch.of([Chunk(sequence([1, 2, 3]), 2)]).of_logit_rows()
    assert len(wanted.tokens) == len(wanted.logit_rows) == len(wanted.segments.ends) == 0
