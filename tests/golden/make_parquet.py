"""Small Parquet files as the usual tools write them: tests/fixtures/parquet.

    pip install pyarrow
    python tests/golden/make_parquet.py

`wanted.json` has for each file what Arrow reads of it, a row a line.
"""
import datetime
import decimal
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq

OUT = os.path.join(os.path.dirname(__file__), "../fixtures/parquet")
os.makedirs(OUT, exist_ok=True)


def chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(name, rows, schema=None, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), f"{OUT}/{name}.parquet", store_schema=False, **options)


wanted = {}
rows = [{"messages": chat(f"q{i}", f"a{i} ü")} for i in range(5)]
write("messages", rows, row_group_size=2)
wanted["messages"] = rows

rows = [{"prompt": "Hi", "response": "Yo"}, {"prompt": "Hi", "response": None}, {"prompt": "", "response": "x" * 300}]
large = pa.schema([("prompt", pa.large_string()), ("response", pa.large_string())])
write("zstd", rows, large, compression="zstd", use_dictionary=False)
wanted["zstd"] = rows

schema = pa.schema([
    ("input_ids", pa.list_(pa.int32())), ("flag", pa.bool_()), ("small", pa.int8()), ("big", pa.uint64()),
    ("half", pa.float16()), ("real", pa.float64()), ("day", pa.date32()), ("at", pa.timestamp("us")),
    ("price", pa.decimal128(10, 2)), ("map", pa.map_(pa.string(), pa.int64())), ("raw", pa.binary()),
    ("nothing", pa.null()),
])
row = {
    "input_ids": [1, 2, 3], "flag": True, "small": -3, "big": 2**63 + 1, "half": 0.5, "real": float("nan"),
    "day": datetime.date(2026, 2, 28), "at": datetime.datetime(2026, 2, 28, 13, 5, 7), "price": decimal.Decimal("12.50"),
    "map": [("a", 1)], "raw": b"text", "nothing": None,
}
write("types", [row, {name: None for name in schema.names} | {"input_ids": []}], schema)
wanted["types"] = [
    row | {"real": None, "day": "2026-02-28", "at": "2026-02-28T13:05:07", "price": "12.50", "map": {"a": 1}, "raw": "text"},
    {name: None for name in schema.names} | {"input_ids": []},
]

write("gzip", [{"text": "ab"}], compression="gzip")
write("image", [{"text": "ab", "image": b"\x89PNG\xff\xfe"}])
write("empty", [], pa.schema([("text", pa.string())]))

deep = pa.string()
for _ in range(100):
    deep = pa.struct([("a", deep)])
write("deep", [], pa.schema([("text", deep)]))

with open(f"{OUT}/wanted.json", "w") as f:
    json.dump(wanted, f, indent=1, ensure_ascii=False)
    f.write("\n")
