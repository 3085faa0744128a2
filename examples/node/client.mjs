// An ONNX file in Node, and whether it gives the bits of its golden vectors:
//
//   npm ci --ignore-scripts --prefix examples/node
//   node examples/node/client.mjs exported/qat.onnx
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";
import { equalVectors } from "../web/vectors.mjs";

const [path] = process.argv.slice(2);
const golden = JSON.parse(readFileSync(path.replace(/onnx$/, "vectors.json")));
const session = await ort.InferenceSession.create(path);
const equal = await equalVectors(ort, session, golden);
const count = golden.vectors.length;
console.log(`${path}: ${equal === count ? "equal" : "NOT equal"}, ${equal} of ${count} golden vectors`);
process.exitCode = equal === count ? 0 : 1;
