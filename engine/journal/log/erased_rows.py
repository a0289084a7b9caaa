"""Drops erased customers' rows that arrive after the erasure, before they are committed."""

import pyarrow as pa
import pyarrow.compute as pc

from engine.hashing import identifier_digest


def without_erased(batch: pa.RecordBatch, erased: dict[str, float]) -> pa.RecordBatch:
    """Drops rows of customers erased after the row's time, and the device of other rows made on such a device.

    Args:
        batch: rows of one table.
        erased: digest of an identifier -> time of its erasure (s since 1970).
    """
    if not erased or "customer" not in batch.schema.names:
        return batch
    made = batch.column("received" if "received" in batch.schema.names else "time").cast(pa.int64()).to_pylist()

    def of_erased(column: str) -> pa.Array:
        names = batch.column(column).to_pylist()
        until = {name: erased.get(identifier_digest(name), -1.0) * 1e6 for name in set(names) if name is not None}
        return pa.array([at <= until.get(name, -1.0) for at, name in zip(made, names, strict=True)], pa.bool_())

    without = without_device(batch, of_erased("device")) if "device" in batch.schema.names else batch
    return without.filter(pc.invert(of_erased("customer")))


def without_device(batch: pa.RecordBatch, where: pa.Array) -> pa.RecordBatch:
    """The rows with `device` and `trace` set to null where `where` is true: the trace contains the device too."""
    for name in {"device", "trace"} & set(batch.schema.names):
        index = batch.schema.get_field_index(name)
        field = batch.schema.field(index)
        batch = batch.set_column(index, field, pc.if_else(where, pa.scalar(None, field.type), batch.column(index)))
    return batch
