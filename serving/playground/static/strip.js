// An embedding as a strip of colours: one cell a number, the sign by hue, the size by strength.

const COLUMNS = 64;
const CELL = 8;

/** Draw a vector, scaled so that only its most extreme numbers reach full strength. */
export function showStrip(canvas, note, vector) {
  const rows = Math.ceil(vector.length / COLUMNS);
  const columns = Math.min(COLUMNS, vector.length);
  canvas.width = columns * CELL;
  canvas.height = Math.max(rows, 2) * CELL;
  const sizes = vector.map(Math.abs).sort((a, b) => a - b);
  const full = sizes[Math.floor(0.98 * (sizes.length - 1))] || 1;
  const context = canvas.getContext("2d");
  const tall = canvas.height / rows;
  vector.forEach((number, index) => {
    const part = Math.max(-1, Math.min(1, number / full));
    const light = 96 - 52 * Math.abs(part);
    context.fillStyle = part < 0 ? `hsl(24 75% ${light}%)` : `hsl(180 70% ${light - 10}%)`;
    context.fillRect((index % COLUMNS) * CELL, Math.floor(index / COLUMNS) * tall, CELL, tall);
  });
  const [low, high] = [Math.min(...vector), Math.max(...vector)].map((n) => n.toPrecision(3));
  const text = `${vector.length} numbers from ${low} to ${high}; teal is positive, orange negative`;
  canvas.setAttribute("aria-label", `The embedding: ${text}`);
  note.textContent = `${text}. It begins with ${vector.slice(0, 4).map((n) => n.toFixed(3)).join(", ")}, …`;
}
