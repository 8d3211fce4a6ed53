"""Embeddings: which entries of codebooks objects have, and that all differ."""
import numpy as np
import pytest
from mindspore import Tensor

from sgm.autodecoder.embeddings import Hashed, Table, hashed_rows
from sgm.models.initialization import initialize

# (objects, codebooks, bits): the paper's Tables and CelebV (its length is 4 of each), and two small sets.
SETS = {"tables": (1676, 256, 8), "celebv": (44400, 256, 13), "512": (512, 32, 6), "128": (128, 32, 5)}


def printed(books):
    """The multipliers as the paper prints them (appendix B.3)."""
    return 2 ** 31 + 2 * np.arange(books) ** 2 + 1


def distinct(rows):
    return len({row.tobytes() for row in rows})


@pytest.mark.parametrize("name, left", [("tables", 1176), ("512", 2), ("128", 2)])
def test_multipliers_as_printed_collapse(name, left):
    """Of the small sets two embeddings are left, of the paper's own tables two thirds."""
    objects, books, bits = SETS[name]
    assert distinct(hashed_rows(np.arange(objects), books, bits, printed(books))) == left


@pytest.mark.parametrize("name", SETS)
def test_our_multipliers_tell_all_objects_apart(name):
    objects, books, bits = SETS[name]
    rows = hashed_rows(np.arange(objects), books, bits)
    assert rows.dtype == np.int32 and rows.min() >= 0 and rows.max() < 1 << bits
    assert distinct(rows) == objects
    assert np.mean([len(np.unique(column)) for column in rows.T]) > 0.94 * (1 << bits)
    neighbors = (rows[2:] == rows[:-2]).mean()      # printed: 0.995 (tables), 1 (small sets)
    assert neighbors < 0.06


def test_hash_is_exact_beyond_32_bits():
    """Python's integers as the reference; the products of the last objects have 50 bits."""
    objects, multipliers = np.array([0, 1, 12345, 299_999]), np.array([2 ** 31 + 1, 2 ** 32 - 5, 3_000_000_019])
    found = hashed_rows(objects, 3, 15, multipliers)
    assert found.tolist() == [[(int(a) * int(k)) % 2 ** 32 >> 17 for a in multipliers] for k in objects]


@pytest.mark.parametrize("make", [lambda: Table(9, 12), lambda: Hashed(12, 3, 5)])
def test_embedding_and_its_gradient(make):
    """Each part is the entry of its codebook; the gradient of a sum counts how often an entry is read."""
    from mindspore import grad
    cell = make()
    initialize(cell, 0)
    objects = np.array([3, 8, 3])
    table, rows = cell.embedding_table.asnumpy(), cell.rows(objects)
    wanted, counts = np.zeros((3, 12), np.float32), np.zeros_like(table)
    for b, row in enumerate(rows.reshape(3, -1)):
        for book, entry in enumerate(row):
            books = len(row)
            part, m = slice(12 // books * book, 12 // books * (book + 1)), entry // books if books > 1 else entry
            assert books == 1 or entry % books == book
            wanted[b, part] = table[m, part]
            counts[m, part] += 1
    assert (cell(Tensor(rows)).asnumpy() == wanted).all()

    def total(rows):
        return cell(rows).sum()
    assert (grad(total, None, cell.trainable_params())(Tensor(rows))[0].asnumpy() == counts).all()
