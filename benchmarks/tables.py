"""
What a look-up table costs: memory a row, time to load, look-ups a second.

    python benchmarks/tables.py [ROWS]

The table is made of ROWS (a million) rows of a text key, an integer, a float and a
text.  Requests are decoded, looked up and encoded on this thread, without a socket.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from servable.apis import predict_pb2
from servable.client import make_tensor_proto
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.platforms.hashmap import HashmapPlatform

PREDICT = 6
SECONDS = 2.0


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


def main(rows: int) -> None:
    """Print the figures of a table with so many *rows*."""
    with tempfile.TemporaryDirectory() as directory:
        with Path(directory, "table.csv").open("w") as file:
            file.write("key,id,weight,text\n")
            file.writelines(
                f"key{row:08d},{row},{row / 7:.3f},t{row % 1000}\n"
                for row in range(rows)
            )
            size = file.tell()
        loader = HashmapPlatform().loader(ServableId("t", 1), StoragePath(directory))
        before, began = resident_bytes(), time.process_time()
        loader.load()
    seconds = time.process_time() - began
    print(f"file        {size / rows:8.1f} bytes a row")
    print(f"resident    {(resident_bytes() - before) / rows:8.1f} bytes a row")
    print(f"load        {seconds:8.2f} s of CPU")
    random = np.random.default_rng(1)
    for keys in (1, 100, 10_000):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "t"
        asked = [f"key{row:08d}" for row in random.integers(0, rows, keys)]
        request.inputs["keys"].CopyFrom(make_tensor_proto(asked))
        message = request.SerializeToString()
        count, began = 0, time.process_time()
        while time.process_time() - began < SECONDS:
            loader.servable().replay(PREDICT, message)
            count += 1
        rate = count * keys / (time.process_time() - began)
        print(f"{keys:6} keys {rate:10.0f} look-ups/s")
    loader.unload()
    print(f"unloaded    {(resident_bytes() - before) / rows:8.1f} bytes a row")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
