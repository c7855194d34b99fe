// Classify images with an exported classifier, without Python: node predict.mjs EXPORT IMAGE...
// Needs: npm install onnxruntime-node sharp

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import ort from "onnxruntime-node";
import sharp from "sharp";
import { square } from "./square.mjs";

/** An image file as upright RGB; transparency is laid on white. */
async function decoded(file) {
  const upright = sharp(file).rotate().toColourspace("srgb").flatten({ background: "white" }).removeAlpha();
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  return { data: new Uint8Array(data), width: info.width, height: info.height };
}

export async function load(folder) {
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
  const session = await ort.InferenceSession.create(join(folder, "model.onnx"));
  return async (file) => {
    const { data, width, height } = square(await decoded(file), config.image);
    const images = new ort.Tensor("uint8", data, [1, height, width, 3]);
    const { probabilities } = await session.run({ images });
    return config.label_names.map((label, place) => ({ label, probability: probabilities.data[place] }));
  };
}

if (process.argv.length > 3) {
  const [folder, ...files] = process.argv.slice(2);
  const classify = await load(folder);
  for (const file of files) {
    const [best] = (await classify(file)).sort((a, b) => b.probability - a.probability);
    console.log([file, best.label, best.probability.toFixed(4)].join("\t"));
  }
}
