// Golden vectors (docs/specification.md): inputs made from seeds, and the integers that must come out.

/** `count` integers from `low` to `high`, drawn from `seed`. */
export function generated({ seed, low, high }, count) {
  const values = new Uint8Array(count);
  let x = seed;
  for (let i = 0; i < count; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    values[i] = low + (((x >>> 24) * (high - low + 1)) >> 8);
  }
  return values;
}

/** For how many of the `golden` vectors a session of the file gives every bit. `ort` is any onnxruntime of npm. */
export async function equalVectors(ort, session, golden) {
  let equal = 0;
  for (const vector of golden.vectors) {
    const feeds = {};
    for (const [index, input] of golden.inputs.entries()) {
      const count = input.shape.reduce((a, b) => a * b);
      feeds[input.name] = entered(ort, input, generated(vector.inputs[index], count));
    }
    const results = await session.run(feeds);
    const same = golden.outputs.map((output, index) => isEqual(results[output.name].data, output, vector.outputs[index]));
    equal += same.every(Boolean);
  }
  return equal;
}

function entered(ort, { dtype, shape, scale, zero_point }, integers) {
  const values = dtype === "uint8" ? integers : Float32Array.from(integers, (each) => (each - zero_point) * scale);
  return new ort.Tensor(dtype, values, shape);
}

function isEqual(found, { scale, zero_point }, integers) {
  if (found.length !== integers.length) return false;
  return integers.every((each, index) => Object.is(found[index], Math.fround((each - zero_point) * scale)));
}
