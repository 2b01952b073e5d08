"""The one place between NumPy and torch: devices, keyed noise, rows and their batches, gradients that are kept.

Engines and models see tensors only, and never ask whether rows are sparse or where they live.
"""

from skvae._tensors._block_sizes import (
    MOST_CELLS,
    any_nan,
    block_rows,
    by_row,
    column_blocks,
    entry_slices,
    is_mapped,
    rounded,
    row_slices,
    rows_a_batch,
    top_k,
    top_k_of_blocks,
)
from skvae._tensors._devices import (
    alias,
    explain_out_of_memory,
    inference_device,
    placed,
    resolve_device,
    to_device,
    to_numpy,
    to_read,
    torch_dtype,
)
from skvae._tensors._gradients import (
    RowGradient,
    and_back,
    collect_gradient,
    forget_gradient,
    keep_gradient,
    keep_rows_of_gradient,
    kept,
    kept_gradient,
)
from skvae._tensors._libraries import as_tensors, at_least, concatenated, library, on_host
from skvae._tensors._linear_algebra import cholesky
from skvae._tensors._noise import Noise, content_keys, normal_at, uniform_at
from skvae._tensors._products import dtype_of, multiplying_by, products, products_of, resolve_precision
from skvae._tensors._rows import Cells, Rows, SomeRows, binned, some_rows
from skvae._tensors._split import Split, SplitRows, WholeRows
from skvae._tensors._tables import Table, TableBatch, Workspace
from skvae._tensors._workers import Workers, threads_to_share

__all__ = [
    "Cells",
    "MOST_CELLS",
    "Noise",
    "RowGradient",
    "Rows",
    "SomeRows",
    "Split",
    "SplitRows",
    "Table",
    "TableBatch",
    "WholeRows",
    "Workers",
    "Workspace",
    "alias",
    "and_back",
    "any_nan",
    "as_tensors",
    "at_least",
    "binned",
    "block_rows",
    "by_row",
    "cholesky",
    "collect_gradient",
    "column_blocks",
    "concatenated",
    "content_keys",
    "dtype_of",
    "entry_slices",
    "explain_out_of_memory",
    "forget_gradient",
    "inference_device",
    "is_mapped",
    "keep_gradient",
    "keep_rows_of_gradient",
    "kept",
    "kept_gradient",
    "library",
    "multiplying_by",
    "normal_at",
    "on_host",
    "placed",
    "products",
    "products_of",
    "rows_a_batch",
    "resolve_device",
    "resolve_precision",
    "rounded",
    "row_slices",
    "some_rows",
    "threads_to_share",
    "to_device",
    "to_numpy",
    "to_read",
    "top_k",
    "top_k_of_blocks",
    "torch_dtype",
    "uniform_at",
]
