// Drawing with WebGL 2: picture tiles, the map of densities, and nuclei as points. Knows nothing of servers.

const QUAD_VERTEX = `#version 300 es
uniform vec4 u_box;      // left, top, width, height, CSS px
uniform vec4 u_part;     // the same of the texture, 0..1
uniform vec2 u_canvas;   // CSS px
out vec2 v_at;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  vec2 px = u_box.xy + corner * u_box.zw;
  v_at = u_part.xy + corner * u_part.zw;
  gl_Position = vec4(px.x / u_canvas.x * 2.0 - 1.0, 1.0 - px.y / u_canvas.y * 2.0, 0.0, 1.0);
}`;
const QUAD_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D u_picture;
uniform float u_alpha;
in vec2 v_at;
out vec4 colour;
void main() { colour = texture(u_picture, v_at) * u_alpha; }`;

const MOST_CLASSES = 64;
const POINT_VERTEX = `#version 300 es
precision highp float;
layout(location = 0) in vec2 a_steps;  // of 1/16 level-0 px from the square's corner
layout(location = 1) in vec4 a_facts;  // class, score, chance, in tissue
uniform vec2 u_corner;                 // of the square, CSS px
uniform float u_scale;                 // CSS px a step
uniform vec2 u_canvas;
uniform float u_size;                  // device px across
uniform vec2 u_cut;                    // least score and chance, 0..255
uniform vec4 u_palette[${MOST_CLASSES}];
flat out vec3 v_colour;
void main() {
  int number = int(a_facts.x);
  vec4 look = number < ${MOST_CLASSES} ? u_palette[number] : vec4(0.0);
  if (look.a == 0.0 || a_facts.y < u_cut.x || a_facts.z < u_cut.y) {
    gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
    gl_PointSize = 1.0;
    return;
  }
  vec2 px = u_corner + a_steps * u_scale;
  gl_Position = vec4(px.x / u_canvas.x * 2.0 - 1.0, 1.0 - px.y / u_canvas.y * 2.0, 0.0, 1.0);
  gl_PointSize = u_size;
  v_colour = look.rgb;
}`;
const POINT_FRAGMENT = `#version 300 es
precision highp float;
uniform float u_size;
uniform float u_hollow;  // 0 a disc, 1 a ring with a little colour inside
flat in vec3 v_colour;
out vec4 colour;
void main() {
  float at = length(gl_PointCoord - 0.5) * u_size;         // device px from the middle
  float radius = 0.5 * u_size - 0.75;
  float inside = clamp(radius - at + 0.5, 0.0, 1.0);
  float ring = max(1.6, 0.22 * radius);
  float fill = mix(1.0, 0.14, u_hollow * clamp(radius - ring - at + 0.5, 0.0, 1.0));
  float alpha = inside * fill;
  colour = vec4(v_colour * alpha, alpha);
}`;
// Few px across: no circle is to be seen, and discarding nothing is quick.
const DOT_FRAGMENT = `#version 300 es
precision highp float;
flat in vec3 v_colour;
out vec4 colour;
void main() { colour = vec4(v_colour, 1.0); }`;

let accelerated = null; // asked once: in software the asking takes a while
const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

/** A context that a graphics card draws; null where software would have to, or where there is none. `force` takes both. */
export function contextOf(canvas, force = false) {
  const options = { alpha: false, antialias: false, powerPreference: "high-performance" };
  accelerated ??= force || isAccelerated();
  return accelerated ? canvas.getContext("webgl2", options) : null;
}

/** Whether WebGL 2 is a graphics card's: its name says so, as `failIfMajorPerformanceCaveat` does not everywhere. */
function isAccelerated() {
  const gl = document.createElement("canvas").getContext("webgl2"); // a canvas that has one kind of context gets no other
  if (!gl) return false;
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !SOFTWARE.test(name);
}

export class GlPainter {
  constructor(canvas, gl) {
    this.canvas = canvas;
    this.gl = gl;
    this.quad = program(gl, QUAD_VERTEX, QUAD_FRAGMENT);
    this.disc = program(gl, POINT_VERTEX, POINT_FRAGMENT);
    this.dot = program(gl, POINT_VERTEX, DOT_FRAGMENT);
    this.nothing = gl.createVertexArray();
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  begin(width, height, ratio, [red, green, blue]) {
    const { gl, canvas } = this;
    const across = Math.round(width * ratio), down = Math.round(height * ratio);
    if (canvas.width !== across || canvas.height !== down) { canvas.width = across; canvas.height = down; }
    this.size = [width, height]; this.ratio = ratio;
    gl.viewport(0, 0, across, down);
    gl.clearColor(red / 255, green / 255, blue / 255, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
  }

  /** What `picture` draws: a bitmap, which is taken over, or RGBA bytes already multiplied by alpha. */
  texture(source, { width, height, smooth = true } = {}) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    if (source instanceof Uint8Array) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, source);
    else { gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, source); source.close(); }
    const filter = smooth ? gl.LINEAR : gl.NEAREST;
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return texture;
  }

  drop(texture) { this.gl.deleteTexture(texture); }

  /** A picture, or part of it ([left, top, width, height], 0..1), over a box of CSS px. */
  picture(texture, box, part = [0, 0, 1, 1], alpha = 1) {
    const { gl, quad } = this;
    gl.useProgram(quad.program);
    gl.bindVertexArray(this.nothing);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.uniform4fv(quad.at("u_box"), box);
    gl.uniform4fv(quad.at("u_part"), part);
    gl.uniform2fv(quad.at("u_canvas"), this.size);
    gl.uniform1f(quad.at("u_alpha"), alpha);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  /** Nuclei of one square: eight bytes each, as the server packs them. */
  buffer(packed) {
    const { gl } = this;
    const array = gl.createVertexArray(), buffer = gl.createBuffer();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, packed, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.UNSIGNED_SHORT, false, 8, 0);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 4, gl.UNSIGNED_BYTE, false, 8, 4);
    gl.bindVertexArray(null);
    return { array, buffer, count: packed.byteLength / 8 };
  }

  refill(held, packed) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, held.buffer);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, packed);
  }

  dropBuffer(held) {
    this.gl.deleteBuffer(held.buffer);
    this.gl.deleteVertexArray(held.array);
  }

  /** What the points of all squares share, then each square. */
  points(squares, { palette, cut, size, hollow, scale }) {
    const { gl } = this;
    const across = Math.max(1, size * this.ratio);
    const look = across < 3.5 ? this.dot : this.disc;
    gl.useProgram(look.program);
    gl.uniform2fv(look.at("u_canvas"), this.size);
    gl.uniform1f(look.at("u_size"), across);
    gl.uniform1f(look.at("u_hollow"), hollow);
    gl.uniform1f(look.at("u_scale"), scale);
    gl.uniform2f(look.at("u_cut"), 255 * cut.score, 255 * cut.chance);
    gl.uniform4fv(look.at("u_palette"), palette);
    for (const { held, corner } of squares) {
      gl.bindVertexArray(held.array);
      gl.uniform2fv(look.at("u_corner"), corner);
      gl.drawArrays(gl.POINTS, 0, held.count);
    }
  }

  close() { this.gl.getExtension("WEBGL_lose_context")?.loseContext(); }
}

/** The palette as the shader wants it: of each class its colour, and whether it is shown. */
export function paletteOf(classes) {
  const palette = new Float32Array(4 * MOST_CLASSES);
  classes.slice(0, MOST_CLASSES).forEach(({ rgb, shown }, number) => palette.set([...rgb.map((value) => value / 255), shown ? 1 : 0], 4 * number));
  return palette;
}

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  const places = new Map();
  return {
    program: made,
    at(name) {
      if (!places.has(name)) places.set(name, gl.getUniformLocation(made, name));
      return places.get(name);
    },
  };
}
