"""Golden vectors as a program of C: it makes the inputs, runs the model and compares the
outputs."""

from __future__ import annotations

from qstrategies.export.c99.text import Table, comment
from qstrategies.specification.vectors import Vectors

GENERATE = """\
/* x = 1664525 x + 1013904223 mod 2^32 for each element: low + (x / 2^24) (high - low + 1) / 256. */
static void generate(uint32_t x, uint32_t low, uint32_t high, uint8_t *to, int32_t elements)
{
    for (int32_t i = 0; i < elements; i++) {
        x = x * 1664525u + 1013904223u;
        to[i] = (uint8_t)(low + ((x >> 24) * (high - low + 1) >> 8));
    }
}"""
SAME = """\
static int same(const uint8_t *found, const uint8_t *expected, int32_t elements)
{
    for (int32_t i = 0; i < elements; i++)
        if (found[i] != expected[i])
            return 0;
    return 1;
}"""


def self_test(name: str, vectors: Vectors) -> str:
    """The source: ``main`` returns 0, or the number of the first vector that gives other outputs.
    Outputs of which the vectors have the hash only are not compared."""
    upper = name.upper()
    memory = [
        f"static uint8_t {kind}_{i}[{upper}_{kind.upper()}_{i}_SIZE];"
        for kind, ends in (("input", vectors.inputs), ("output", vectors.outputs))
        for i, _ in enumerate(ends)
    ]
    tables = [
        str(Table("uint8_t", f"expected_{number}_{i}", output))
        for number, vector in enumerate(vectors.vectors, 1)
        for i, output in enumerate(vector.outputs)
        if output is not None
    ]
    parts = [
        comment("Checks the golden vectors: 0, or the number of the first that differs."),
        f'#include "{name}.h"',
        GENERATE,
        SAME,
        "\n".join(memory),
        *tables,
        _main(name, vectors),
    ]
    return "\n\n".join(parts) + "\n"


def _main(name: str, vectors: Vectors) -> str:
    upper = name.upper()
    given = [f"input_{i}" for i, _ in enumerate(vectors.inputs)]
    given += [f"output_{i}" for i, _ in enumerate(vectors.outputs)]
    lines = ["int main(void)", "{"]
    for number, vector in enumerate(vectors.vectors, 1):
        for i, entry in enumerate(vector.inputs):
            made = f"{entry.seed}u, {entry.low}u, {entry.high}u, input_{i}, {upper}_INPUT_{i}_SIZE"
            lines.append(f"    generate({made});")
        lines.append(f"    {name}_run({', '.join(given)});")
        for i, output in enumerate(vector.outputs):
            if output is not None:
                pair = f"output_{i}, expected_{number}_{i}, {upper}_OUTPUT_{i}_SIZE"
                lines += [f"    if (!same({pair}))", f"        return {number};"]
    return "\n".join([*lines, "    return 0;", "}"])
