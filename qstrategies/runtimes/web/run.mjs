// One ONNX file in onnxruntime-web (WASM, one thread), driven over standard input and output.
//
// A message is its length (uint32, little endian) and its bytes. First the file comes in, and {"inputs": [type, ...]} goes
// out; then, per run, for each input its shape as JSON and its elements come in, and {"shape": [...]} and the float32
// elements of the output go out. Where something fails, {"error": "..."} goes out instead.
import * as ort from "onnxruntime-web/wasm";

ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";

const ARRAYS = { uint8: Uint8Array, float32: Float32Array };

async function* messages(stream) {
  let chunks = [], size = 0, wanted = 4;
  for await (const chunk of stream) {
    chunks.push(chunk);
    size += chunk.length;
    while (size >= wanted) {
      let buffer = Buffer.concat(chunks);
      wanted = 4 + buffer.readUInt32LE();
      if (size >= wanted) {
        yield new Uint8Array(buffer.subarray(4, wanted));
        buffer = buffer.subarray(wanted);
        wanted = 4;
      }
      chunks = [buffer];
      size = buffer.length;
    }
  }
}

function send(bytes) {
  const header = Buffer.alloc(4);
  header.writeUInt32LE(bytes.byteLength);
  process.stdout.write(header);
  process.stdout.write(Buffer.from(bytes.buffer ?? bytes, bytes.byteOffset, bytes.byteLength));
}

const sendJson = (value) => send(Buffer.from(JSON.stringify(value)));

const incoming = messages(process.stdin);
const next = async () => (await incoming.next()).value;

async function load() {
  const session = await ort.InferenceSession.create(await next(), { executionProviders: ["wasm"] });
  const types = session.inputMetadata.map((input) => input.type);
  sendJson({ inputs: types });
  return [session, types];
}

async function run(session, types, first) {
  const feeds = {};
  for (const [index, type] of types.entries()) {
    const shape = JSON.parse(Buffer.from(index ? await next() : first));
    feeds[session.inputNames[index]] = new ort.Tensor(type, new ARRAYS[type]((await next()).buffer), shape);
  }
  if (session.outputNames.length > 1) throw new Error("one of several outputs only");
  const output = (await session.run(feeds))[session.outputNames[0]];
  sendJson({ shape: output.dims });
  send(output.data);
}

try {
  const [session, types] = await load();
  for (let first = await next(); first !== undefined; first = await next()) await run(session, types, first);
} catch (error) {
  sendJson({ error: String(error.message ?? error) });
}
