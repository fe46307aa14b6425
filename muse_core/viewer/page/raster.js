// Drawing without a graphics card: the same as gl.js by the 2D canvas and, for nuclei, straight into its pixels. There
// software WebGL takes about a microsecond a nucleus and 50 ms a picture of the whole window.

const PHASES = 4; // places of a nucleus within a px, each way
const DOT_PX = 3.5; // smaller than this no circle is to be seen

export class RasterPainter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  }

  begin(width, height, ratio, colour) {
    const { canvas, context } = this;
    const across = Math.round(width * ratio), down = Math.round(height * ratio);
    if (canvas.width !== across || canvas.height !== down) { canvas.width = across; canvas.height = down; }
    this.ratio = ratio;
    context.globalAlpha = 1;
    context.fillStyle = `rgb(${colour.join()})`;
    context.fillRect(0, 0, across, down);
  }

  /** What `picture` draws: a bitmap, which is taken over, or RGBA bytes already multiplied by alpha. */
  texture(source, { width, height } = {}) {
    if (!(source instanceof Uint8Array)) return source;
    const held = new OffscreenCanvas(width, height), image = new ImageData(width, height);
    for (let at = 0; at < source.length; at += 4) {
      const alpha = source[at + 3];
      for (let channel = 0; channel < 3; channel += 1) image.data[at + channel] = alpha ? (255 * source[at + channel]) / alpha : 0;
      image.data[at + 3] = alpha;
    }
    held.getContext("2d").putImageData(image, 0, 0);
    return held;
  }

  drop(texture) { texture.close?.(); }

  /** A picture, or part of it ([left, top, width, height], 0..1), over a box of CSS px; edges on whole px: tiles meet. */
  picture(texture, [left, top, width, height], part = [0, 0, 1, 1], alpha = 1) {
    const { context, ratio } = this;
    const x = Math.round(left * ratio), y = Math.round(top * ratio);
    const across = Math.round((left + width) * ratio) - x, down = Math.round((top + height) * ratio) - y;
    context.globalAlpha = alpha;
    context.drawImage(texture, part[0] * texture.width, part[1] * texture.height, part[2] * texture.width, part[3] * texture.height, x, y, across, down);
  }

  /** Nuclei of one square: eight bytes each, as the server packs them. */
  buffer(packed) {
    return { packed, steps: new Uint16Array(packed.buffer), count: packed.byteLength / 8 };
  }

  refill() {} // the bytes are those that were given

  dropBuffer() {}

  points(squares, { palette, cut, size, hollow, scale }) {
    const { context, canvas, ratio } = this, { width, height } = canvas;
    const across = Math.max(1, size * ratio), step = scale * ratio;
    const inks = inksOf(palette), stamp = stampOf(across, hollow), image = context.getImageData(0, 0, width, height);
    const press = pressOn(new Uint32Array(image.data.buffer), width, height, stamp);
    const leastScore = 255 * cut.score, leastChance = 255 * cut.chance;
    for (const { held: { packed, steps, count }, corner } of squares) {
      const x0 = corner[0] * ratio, y0 = corner[1] * ratio;
      const left = (-across - x0) / step, right = (width + across - x0) / step, top = (-across - y0) / step, bottom = (height + across - y0) / step;
      for (let at = 0; at < count; at += 1) {
        const x = steps[4 * at], y = steps[4 * at + 1];
        if (x < left || x > right || y < top || y > bottom) continue;
        const ink = inks[packed[8 * at + 4]];
        if (ink !== 0 && packed[8 * at + 5] >= leastScore && packed[8 * at + 6] >= leastChance) press(x0 + x * step, y0 + y * step, ink);
      }
    }
    context.putImageData(image, 0, 0);
  }

  close() {}
}

/** One word a class as image data has it, red lowest; 0 where the class is not shown. */
function inksOf(palette) {
  const inks = new Uint32Array(256);
  for (let number = 0; 4 * number < palette.length; number += 1) {
    const [red, green, blue, shown] = palette.subarray(4 * number, 4 * number + 4);
    if (shown) inks[number] = (255 << 24) | ((255 * blue) << 16) | ((255 * green) << 8) | (255 * red);
  }
  return inks;
}

/** A nucleus' opacity, 0..255, for each place within a px, one shape after another: a disc, or as `hollow` grows to 1 a ring. */
function stampOf(across, hollow) {
  const side = Math.ceil(across) + 1, isDot = across < DOT_PX;
  const radius = 0.5 * across - (isDot ? 0 : 0.75), ring = Math.max(1.6, 0.22 * radius);
  const clamp = (value) => Math.min(1, Math.max(0, value));
  const opacity = (dx, dy) => {
    if (isDot) return clamp(radius - Math.abs(dx) + 0.5) * clamp(radius - Math.abs(dy) + 0.5);
    const distance = Math.hypot(dx, dy);
    return clamp(radius - distance + 0.5) * (1 - 0.86 * hollow * clamp(radius - ring - distance + 0.5));
  };
  const shapes = new Uint8Array(PHASES ** 2 * side * side);
  for (let at = 0; at < shapes.length; at += 1) {
    const phase = Math.floor(at / side ** 2), row = Math.floor(at / side) % side, column = at % side;
    shapes[at] = 255 * opacity(column + 0.5 - 0.5 * across - (phase % PHASES) / PHASES, row + 0.5 - 0.5 * across - Math.floor(phase / PHASES) / PHASES);
  }
  return { side, half: 0.5 * across, shapes };
}

/** A function that lays the stamp in one colour over pixels, its middle at (x, y), px. */
function pressOn(words, width, height, { side, half, shapes }) {
  return (x, y, ink) => {
    const left = Math.floor(x - half), top = Math.floor(y - half);
    const phase = Math.floor(PHASES * (x - half - left)) + PHASES * Math.floor(PHASES * (y - half - top));
    const from = Math.max(0, -left), until = Math.min(side, width - left), last = Math.min(side, height - top);
    const odd = ink & 0xff00ff, even = (ink >> 8) & 0xff;
    for (let row = Math.max(0, -top); row < last; row += 1) {
      const shape = (phase * side + row) * side, to = (top + row) * width + left;
      for (let column = from; column < until; column += 1) {
        const alpha = shapes[shape + column];
        if (alpha > 250) words[to + column] = ink;
        else if (alpha !== 0) {
          // Red and blue at once, sixteen bits each: neither reaches the other.
          const under = words[to + column], rest = 256 - alpha;
          const both = ((Math.imul(odd, alpha) + Math.imul(under & 0xff00ff, rest)) >>> 8) & 0xff00ff;
          words[to + column] = 0xff000000 | both | ((Math.imul(even, alpha) + Math.imul((under >> 8) & 0xff, rest)) & 0xff00);
        }
      }
    }
  };
}
