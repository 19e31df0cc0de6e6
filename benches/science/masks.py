"""Masks that rugosa does not make itself, as files for `rugosa train --mask`; Python's standard library alone.

  masks.py random    --model DIR|FILE.gguf --density D --seed N OUT     uniformly at random, as SHiRA draws them
  masks.py magnitude --model DIR --density D OUT                         where |W| is largest (F16 or BF16), as PEFT's Supra-Tuning
  masks.py zeroed    --from MASK OUT     q, k and gate get their matrix's first entries, as the original code's zeroed gradients do

Each module gets int(D * rows * columns) entries, as rugosa's own masks do; ties go to the lower position.
"""

import argparse
import json
import os
import random
import struct
import sys
from array import array
from collections import Counter
from pathlib import Path

LINEARS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
ZEROED = ("q_proj", "k_proj", "gate_proj")


class MaskError(Exception):
    """A file that cannot be used, in one line."""


def shapes_of(model):
    """`{module: (rows, cols)}` of the adapted linears, from the header of a GGUF file or of a folder's safetensors."""
    model = Path(model)
    if model.is_file():
        shapes = gguf_shapes(model)
    else:
        shapes = {}
        for file in safetensors_files(model):
            for name, entry in header_of(file)[0].items():
                if name.endswith("_proj.weight") and len(entry["shape"]) == 2:
                    shapes[name.removesuffix(".weight")] = tuple(entry["shape"])
    if not shapes:
        raise MaskError(f"{model}: has no linears named as {', '.join(LINEARS.values())}")
    return shapes


def safetensors_files(folder):
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MaskError(f"{folder}: has no safetensors files")
    return files


def header_of(path):
    """`(tensors by name, where their bytes begin)`."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > os.path.getsize(path):
            raise MaskError(f"{path}: is no safetensors file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def gguf_shapes(path):
    with open(path, "rb") as file:
        take = lambda form: struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
        text = lambda: file.read(take("Q")[0]).decode()
        widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

        def skip(kind):
            if kind == 8:
                text()
            elif kind == 9:
                inner, count = take("IQ")
                if inner in widths:
                    file.seek(widths[inner] * count, 1)
                else:
                    for _ in range(count):
                        skip(inner)
            else:
                file.seek(widths[kind], 1)

        if file.read(4) != b"GGUF":
            raise MaskError(f"{path}: is no GGUF file")
        _, tensors, pairs = take("IQQ")
        for _ in range(pairs):
            text()
            skip(take("I")[0])
        shapes = {}
        for _ in range(tensors):
            name = text().split(".")
            dims = take("Q" * take("I")[0])
            take("IQ")
            if name[0] == "blk" and name[2] in LINEARS and name[3:] == ["weight"]:
                shapes[f"model.layers.{name[1]}.{LINEARS[name[2]]}"] = (dims[1], dims[0])
        return shapes


def random_masks(shapes, density, seed):
    """`{module: (rows, cols, positions)}`; a module's positions do not depend on the others."""
    masks = {}
    for module, (rows, cols) in shapes.items():
        draw = random.Random(f"{seed} {module}")
        masks[module] = (rows, cols, sorted(draw.sample(range(rows * cols), int(density * rows * cols))))
    return masks


def magnitude_masks(folder, density):
    masks = {}
    for path in safetensors_files(Path(folder)):
        header, begin = header_of(path)
        with open(path, "rb") as file:
            for name, entry in header.items():
                if not name.endswith("_proj.weight"):
                    continue
                if entry["dtype"] not in ("F16", "BF16"):
                    raise MaskError(f"{path}: {name} is {entry['dtype']}; write the model with rugosa quantize --to f16 first")
                rows, cols = entry["shape"]
                first, last = entry["data_offsets"]
                file.seek(begin + first)
                bits = array("H")
                bits.frombytes(file.read(last - first))
                if sys.byteorder == "big":
                    bits.byteswap()
                masks[name.removesuffix(".weight")] = (rows, cols, largest(bits, int(density * rows * cols)))
    return masks


def largest(bits, count):
    """Positions of the `count` numbers of largest magnitude; without the sign, bits of 16-bit floats are ordered as they are."""
    if count == 0:
        return []
    amounts = Counter()
    for value, times in Counter(bits).items():
        amounts[value & 0x7FFF] += times
    above = 0
    for threshold in sorted(amounts, reverse=True):
        if above + amounts[threshold] >= count:
            break
        above += amounts[threshold]
    ties = count - above
    positions = []
    for position in [p for p, value in enumerate(bits) if value & 0x7FFF >= threshold]:
        if bits[position] & 0x7FFF == threshold:
            if ties == 0:
                continue
            ties -= 1
        positions.append(position)
    return positions


def zeroed_masks(masks):
    """Of q, k and gate as many of the first entries as the mask has there: the top-k of zeros, ties to the lower position."""
    return {
        module: (rows, cols, list(range(len(at))) if module.endswith(ZEROED) else at) for module, (rows, cols, at) in masks.items()
    }


def write_masks(path, masks):
    """Writes what `rugosa train --mask` reads: CSR in I32, whole or not at all."""
    header, data = {}, bytearray()
    for module, (rows, cols, at) in sorted(masks.items()):
        counts = [0] * rows
        for position in at:
            counts[position // cols] += 1
        offs = [0]
        for count in counts:
            offs.append(offs[-1] + count)
        for name, numbers in (("col_idx", [position % cols for position in at]), ("row_offs", offs)):
            raw = struct.pack(f"<{len(numbers)}i", *numbers)
            header[f"{module}.{name}"] = {"dtype": "I32", "shape": [len(numbers)], "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    beside = Path(f"{path}.{os.getpid()}.tmp")
    beside.write_bytes(len(text).to_bytes(8, "little") + text + data)
    os.replace(beside, path)


def read_masks(path, shapes):
    header, begin = header_of(path)
    raw = Path(path).read_bytes()
    masks = {}
    for module, (rows, cols) in shapes.items():
        numbers = {}
        for name in ("row_offs", "col_idx"):
            if f"{module}.{name}" not in header:
                raise MaskError(f"{path}: {module}.{name} is missing")
            first, last = header[f"{module}.{name}"]["data_offsets"]
            numbers[name] = struct.unpack(f"<{(last - first) // 4}i", raw[begin + first : begin + last])
        offs = numbers["row_offs"]
        at = [row * cols + col for row in range(rows) for col in numbers["col_idx"][offs[row] : offs[row + 1]]]
        masks[module] = (rows, cols, at)
    return masks


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["random", "magnitude", "zeroed"])
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--model", required=True, help="whose linears the masks are for")
    parser.add_argument("--density", type=float, help="share of each weight's entries")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="source", metavar="MASK", help="for zeroed: a mask that rugosa train --save-mask wrote")
    args = parser.parse_args(arguments)
    if args.kind == "zeroed" and not args.source:
        parser.error("zeroed needs --from")
    if args.kind != "zeroed" and args.density is None:
        parser.error(f"{args.kind} needs --density")
    try:
        if args.kind == "random":
            masks = random_masks(shapes_of(args.model), args.density, args.seed)
        elif args.kind == "magnitude":
            masks = magnitude_masks(args.model, args.density)
        else:
            masks = zeroed_masks(read_masks(args.source, shapes_of(args.model)))
        write_masks(args.out, masks)
    except (MaskError, OSError, ValueError, struct.error) as why:
        print(f"masks: {why}", file=sys.stderr)
        return 1
    print(f"{sum(len(at) for _, _, at in masks.values())} entries in {len(masks)} modules: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
