// The page's data: JSON and columns of integers, compressed (kvsim/report/page/packing.py wrote them).

function bytesOf(id) {
  const text = atob(byId(id).textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

async function unzipped(id) {
  const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const unzippedText = async (id) => new TextDecoder().decode(await unzipped(id));

/** Columns by name; each is stored as planes of bytes, the lowest first, of value - low. */
function unpackColumns(bytes, specs) {
  const columns = {};
  let at = 0;
  for (const { name, rows, low, planes } of specs) {
    const values = new Float64Array(rows).fill(low);
    for (let plane = 0, unit = 1; plane < planes; plane++, unit *= 256, at += rows)
      for (let row = 0; row < rows; row++) values[row] += bytes[at + row] * unit;
    columns[name] = values;
  }
  return columns;
}
