// What headstart does with an image before the graph takes over: fit it to a square and reduce it, as Pillow would.
// The same numbers as in Python, to the last bit, for the same pixels. Needs nothing but JavaScript.

const BITS = 22; // Pillow's weights are whole numbers of 2 ** -22
const REDUCING_GAP = 3;

/**
 * The square that the graph takes as input.
 *
 * @param {{data: Uint8Array, width: number, height: number}} image RGB, row by row, without transparency
 * @param {{side: number, fit: string, interpolation: string, mean: number[]}} rule block "image" of config.json
 * @returns {{data: Uint8Array, width: number, height: number}} a square of at most `side` pixels
 */
export function square(image, rule) {
  const { width, height } = image;
  const shortest = Math.min(width, height);
  const longest = Math.max(width, height);
  if (rule.fit === "crop") {
    const [left, top] = [Math.floor((width - shortest) / 2), Math.floor((height - shortest) / 2)];
    const box = [left, top, left + shortest, top + shortest];
    const edge = Math.min(shortest, rule.side);
    return resized(image, edge, edge, box, rule.interpolation);
  }
  const edge = Math.min(longest, rule.side);
  if (rule.fit === "stretch") return resized(image, edge, edge, [0, 0, width, height], rule.interpolation);
  const [innerWidth, innerHeight] = [width, height].map((length) => Math.max(1, halfEven((length * edge) / longest)));
  const inner = resized(image, innerWidth, innerHeight, [0, 0, width, height], rule.interpolation);
  const border = rule.mean.map((value) => halfEven(255 * value));
  const padded = new Uint8Array(edge * edge * 3).map((_, place) => border[place % 3]);
  const [left, top] = [Math.floor((edge - innerWidth) / 2), Math.floor((edge - innerHeight) / 2)];
  for (let row = 0; row < innerHeight; row++) {
    const line = inner.data.subarray(row * innerWidth * 3, (row + 1) * innerWidth * 3);
    padded.set(line, ((top + row) * edge + left) * 3);
  }
  return { data: padded, width: edge, height: edge };
}

/** Pillow's Image.resize with reducing_gap=3: whole blocks are averaged first where much is reduced. */
function resized(image, width, height, box, interpolation) {
  const factors = [box[2] - box[0], box[3] - box[1]].map((length, axis) =>
    Math.max(1, Math.floor(length / [width, height][axis] / REDUCING_GAP)),
  );
  if (factors[0] > 1 || factors[1] > 1) {
    const reach = (interpolation === "bicubic" ? 2 : 1) - 0.5;
    const supports = [(reach * (box[2] - box[0])) / width, (reach * (box[3] - box[1])) / height];
    const safe = [
      Math.max(0, Math.trunc(box[0] - supports[0])),
      Math.max(0, Math.trunc(box[1] - supports[1])),
      Math.min(image.width, Math.ceil(box[2] + supports[0])),
      Math.min(image.height, Math.ceil(box[3] + supports[1])),
    ];
    image = blocksAveraged(image, factors, safe);
    // Pillow keeps these four in single precision.
    box = box.map((place, side) => Math.fround((place - safe[side % 2]) / factors[side % 2]));
  }
  const rows = resampled(image, width, box[0], box[2], interpolation);
  return transposed(resampled(transposed(rows), height, box[1], box[3], interpolation));
}

/** Averages of blocks of factors[0] x factors[1] pixels within a box, rounded as Pillow rounds them. */
function blocksAveraged(image, [across, down], [left, top, right, bottom]) {
  const width = Math.ceil((right - left) / across);
  const height = Math.ceil((bottom - top) / down);
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const rows = Math.min(down, bottom - top - y * down);
    for (let x = 0; x < width; x++) {
      const columns = Math.min(across, right - left - x * across);
      const count = rows * columns;
      const multiplier = Math.floor(2 ** 24 / count);
      for (let channel = 0; channel < 3; channel++) {
        let sum = Math.floor(count / 2);
        for (let row = 0; row < rows; row++) {
          let place = ((top + y * down + row) * image.width + left + x * across) * 3 + channel;
          for (let column = 0; column < columns; column++, place += 3) sum += image.data[place];
        }
        data[(y * width + x) * 3 + channel] = Math.floor((sum * multiplier) / 2 ** 24);
      }
    }
  }
  return { data, width, height };
}

/** Rows resampled to another width, of the part between two places; antialiased where they get shorter. */
function resampled(image, width, from, to, interpolation) {
  if (width === image.width && from === 0 && to === image.width) return image;
  const scale = Math.fround(to - from) / width;
  const stretch = Math.max(1, scale);
  const support = (interpolation === "bicubic" ? 2 : 1) * stretch;
  const kernel = interpolation === "bicubic" ? cubic : (distance) => Math.max(0, 1 - Math.abs(distance));
  const data = new Uint8Array(width * image.height * 3);
  for (let x = 0; x < width; x++) {
    const centre = from + (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(image.width, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let pixel = first; pixel < last; pixel++) weights.push(kernel((pixel - centre + 0.5) * (1 / stretch)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const whole = weights.map((weight) => {
      const share = total === 0 ? weight : weight / total;
      return Math.trunc(share * 2 ** BITS + (share < 0 ? -0.5 : 0.5));
    });
    for (let row = 0; row < image.height; row++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (BITS - 1);
        let place = (row * image.width + first) * 3 + channel;
        for (let tap = 0; tap < whole.length; tap++, place += 3) sum += image.data[place] * whole[tap];
        data[(row * width + x) * 3 + channel] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
      }
    }
  }
  return { data, width, height: image.height };
}

function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

function transposed({ data, width, height }) {
  const turned = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) {
        turned[(x * height + y) * 3 + channel] = data[(y * width + x) * 3 + channel];
      }
    }
  }
  return { data: turned, width: height, height: width };
}

/** Rounded as Python rounds: halves go to the even neighbour. */
function halfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
