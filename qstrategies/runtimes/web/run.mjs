// ONNX files in onnxruntime-web (WASM, one thread), driven over standard input and output.
//
// A message is its length (uint32, little endian) and its bytes; a command is JSON, followed by the messages it needs:
//   {"load": number}, the file                                 answered by {"inputs": [type, ...]}
//   {"run": number, "shapes": [...]}, the elements of each     answered by {"shape": [...]} and the float32 elements
//   {"close": number}                                          not answered
// Where something fails, {"error": "..."} is the answer.
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

const sessions = new Map();

async function load(number) {
  const file = await next();
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  sessions.set(number, session);
  sendJson({ inputs: session.inputMetadata.map((input) => input.type) });
}

async function run(number, shapes) {
  const arrays = [];
  for (const _ of shapes) arrays.push((await next()).buffer);
  const session = sessions.get(number);
  if (session.outputNames.length > 1) throw new Error("one of several outputs only");
  const feeds = Object.fromEntries(session.inputMetadata.map(({ name, type }, index) =>
    [name, new ort.Tensor(type, new ARRAYS[type](arrays[index]), shapes[index])]));
  const output = (await session.run(feeds))[session.outputNames[0]];
  sendJson({ shape: output.dims });
  send(output.data);
}

async function close(number) {
  await sessions.get(number)?.release();
  sessions.delete(number);
}

async function obey(command) {
  if ("load" in command) await load(command.load);
  else if ("run" in command) await run(command.run, command.shapes);
  else await close(command.close);
}

for (let command = await next(); command !== undefined; command = await next()) {
  try {
    await obey(JSON.parse(Buffer.from(command)));
  } catch (error) {
    sendJson({ error: String(error.message ?? error) });
  }
}
