"""pyarrow, for the modules of curated clips: imported here alone, so that one sentence says what to install where it is not."""

from ..errors import UserError

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet
except ImportError as problem:
    raise UserError("curated clips: expected the package pyarrow, found none; install this package's extra 'data'.") from problem

__all__ = ["pa", "parquet", "pc"]
