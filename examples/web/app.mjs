// The page: a model and its golden vectors are loaded, compared, and the model reads what is drawn.
import { paint, pixels } from "./digit.mjs";
import { equalVectors } from "./vectors.mjs";

const ORT = "../../qstrategies/runtimes/web/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
const INSTALL = "npm ci --prefix qstrategies/runtimes/web";
const MODEL = "../../exported/qat.onnx";
const STROKE = 22;

const element = (id) => document.getElementById(id);
const paper = element("paper"), seen = element("seen");
const ink = paper.getContext("2d", { willReadFrequently: true });
let ort, session, last = null;

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} is not there (${response.status}): serve the root of the repository`);
  return new Uint8Array(await response.arrayBuffer());
}

async function start() {
  ort = await import(ORT).catch(() => { throw new Error(`onnxruntime-web is not installed: ${INSTALL}`); });
  ort.env.wasm.numThreads = 1;
  const [file, text] = await Promise.all([MODEL, MODEL.replace(/onnx$/, "vectors.json")].map(fetched));
  const golden = JSON.parse(new TextDecoder().decode(text));
  session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  await compare(golden, file);
  await read();
}

async function compare(golden, file) {
  const equal = await equalVectors(ort, session, golden), count = golden.vectors.length;
  const known = await sha256(file) === golden.file_sha256;
  const all = known && equal === count;
  const verdict = known ? `${equal} of ${count} golden vectors` : "the golden vectors are of another file";
  say(`${all ? "Equal" : "Not equal"}: ${verdict}`, all);
  const name = MODEL.split("/").pop();
  element("details").textContent = `${name}, ${file.length.toLocaleString("en")} bytes, in onnxruntime-web ${ort.env.versions.web} (WebAssembly). `
    + "The vectors were computed in integers; every output is compared bit for bit.";
}

async function sha256(bytes) {
  if (!isSecureContext) throw new Error("a browser computes hashes for localhost or https only");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (each) => each.toString(16).padStart(2, "0")).join("");
}

function say(text, good) {
  element("verdict").textContent = text;
  element("verdict").className = good ? "good" : "bad";
}

async function read() {
  const image = pixels(paper, seen);
  if (!session || image === null) return show(null);
  const { logits } = await session.run({ image: new ort.Tensor("uint8", image, [1, 1, 28, 28]) });
  show(Array.from(logits.data));
}

/** The logits as probabilities, for people; the class is that of the largest logit. */
function show(logits) {
  const largest = logits === null ? 0 : Math.max(...logits);
  const powers = (logits ?? Array(10).fill(-Infinity)).map((each) => Math.exp(each - largest));
  const sum = powers.reduce((a, b) => a + b) || 1;
  const digit = logits === null ? -1 : logits.indexOf(largest);
  element("digit").textContent = digit < 0 ? "–" : digit;
  element("scores").replaceChildren(...powers.map((power, each) => row(each, power / sum, each === digit)));
}

function row(digit, share, first) {
  const item = document.createElement("li"), name = document.createElement("span");
  const bar = document.createElement("div"), fill = document.createElement("i"), percent = document.createElement("span");
  item.className = first ? "first" : "";
  bar.className = "bar";
  fill.style.width = `${100 * share}%`;
  name.textContent = digit;
  percent.textContent = `${Math.round(100 * share)} %`;
  bar.append(fill);
  item.append(name, bar, percent);
  return item;
}

function wipe() {
  element("note").textContent = "";
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, paper.width, paper.height);
  seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
}

function stroke(event) {
  const { left, top, width, height } = paper.getBoundingClientRect();
  const point = [(event.clientX - left) / width * paper.width, (event.clientY - top) / height * paper.height];
  Object.assign(ink, { lineWidth: STROKE, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  ink.beginPath();
  ink.moveTo(...(last ?? point));
  ink.lineTo(...point);
  ink.stroke();
  last = point;
}

paper.addEventListener("pointerdown", (event) => { paper.setPointerCapture(event.pointerId); stroke(event); });
paper.addEventListener("pointermove", (event) => { if (last) stroke(event); });
for (const end of ["pointerup", "pointercancel"]) paper.addEventListener(end, () => { last = null; read(); });
element("clear").addEventListener("click", () => { wipe(); read(); });
element("picture").addEventListener("change", async ({ target }) => {
  if (!target.files[0]) return;
  const picture = await createImageBitmap(target.files[0]).catch(() => null);
  wipe();
  if (picture) paint(paper, picture);
  else element("note").textContent = `${target.files[0].name} is no picture that this browser opens.`;
  await read();
  target.value = "";
});

wipe();
show(null);
start().catch((error) => say(error.message, false));
