// Hands each WGSL file of a folder to Tint, the compiler of Chrome's WebGPU, and makes a pipeline of it at WebGPU's default
// limits. Dawn's null backend serves: nothing runs, so no GPU is needed.
// Usage: node tint.mjs DIR, with the npm package `webgpu` in ./node_modules of the current folder.
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const require = createRequire(join(process.cwd(), 'x.js'));
const { create } = await import(pathToFileURL(require.resolve('webgpu')));
const folder = process.argv[2];
// kept alive: once it is collected, no promise of its devices is ever fulfilled
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
if (!adapter) {
  console.error('tint: Dawn gives no adapter, not even its null one');
  process.exit(2);
}
const device = await adapter.requestDevice();
const files = readdirSync(folder).filter((f) => f.endsWith('.wgsl'));
let failed = 0;
for (const file of files) {
  const code = readFileSync(join(folder, file), 'utf8');
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter((m) => m.type === 'error').map((m) => `${m.lineNum}:${m.linePos} ${m.message}`);
  if (errors.length === 0) device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint: 'main' } });
  const error = await device.popErrorScope();
  if (error && errors.length === 0) errors.push(error.message.split('\n')[0]);
  if (errors.length > 0) {
    failed += 1;
    if (failed <= 5) console.error(`tint: ${file}: ${errors[0]}`);
  }
}
console.log(`tint: ${files.length - failed} passed, ${failed} failed`);
globalThis.kept = gpu;
// Dawn's threads keep the process alive
process.exit(failed > 0 || files.length === 0 ? 1 : 0);
