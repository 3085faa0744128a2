// From what is on the paper to the pixels that the network was trained on: MNIST's digits are fitted into 20 x 20
// pixels and lie with their centre of mass in the middle of 28 x 28, light on dark.
const SIDE = 28, BOX = 20, DARK = 24;

/** The digit on `paper` as 28 x 28 grey values; null for an empty one. `seen` shows them. */
export function pixels(paper, seen) {
  const box = bounds(grey(paper), paper.width);
  if (box === null) return null;
  const scale = BOX / Math.max(box.width, box.height);
  const place = (x, y) => {
    const context = seen.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    context.drawImage(paper, box.x, box.y, box.width, box.height, x, y, box.width * scale, box.height * scale);
    return grey(seen);
  };
  const middle = [(SIDE - box.width * scale) / 2, (SIDE - box.height * scale) / 2];
  const [x, y] = centre(place(...middle));
  return place(middle[0] + Math.round(SIDE / 2 - x), middle[1] + Math.round(SIDE / 2 - y));
}

/** Draw `picture` onto `paper`, as large as it fits, light strokes on dark ground. */
export function paint(paper, picture) {
  const context = paper.getContext("2d", { willReadFrequently: true });
  const scale = Math.min(paper.width / picture.width, paper.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const [x, y] = [(paper.width - width) / 2, (paper.height - height) / 2];
  context.drawImage(picture, x, y, width, height);
  const inside = context.getImageData(x, y, width, height);
  if (brightEdge(inside)) {
    for (let i = 0; i < inside.data.length; i++) if (i % 4 < 3) inside.data[i] = 255 - inside.data[i];
    context.putImageData(inside, x, y);
  }
}

function grey(canvas) {
  const { data } = canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => luma(data, i));
}

const luma = (data, i) => Math.round(0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);

function bounds(values, width) {
  const lit = [...values.keys()].filter((i) => values[i] > DARK);
  if (lit.length === 0) return null;
  let [left, top, right, bottom] = [width, Infinity, 0, 0];
  for (const i of lit) {
    const [x, y] = [i % width, Math.floor(i / width)];
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  }
  return { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}

function centre(values) {
  let [mass, x, y] = [0, 0, 0];
  values.forEach((value, i) => { mass += value; x += value * (i % SIDE + 0.5); y += value * (Math.floor(i / SIDE) + 0.5); });
  return mass === 0 ? [SIDE / 2, SIDE / 2] : [x / mass, y / mass];
}

function brightEdge({ data, width, height }) {
  let [sum, count] = [0, 0];
  for (let i = 0; i < width * height; i++) {
    const [x, y] = [i % width, Math.floor(i / width)];
    if (x > 0 && y > 0 && x < width - 1 && y < height - 1) continue;
    sum += luma(data, i);
    count += 1;
  }
  return sum / count > 127;
}
