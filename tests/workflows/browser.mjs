// Drives a real ComfyUI page in headless Chromium: node browser.mjs ADDRESS WORKFLOW_NAME VIDEO OUT_FOLDER
// Finds the template in the browser, drops a workflow JSON and a saved mp4 on the canvas, queues from the page, waits for the
// finished video, and takes screenshots. Prints one JSON object.
import fs from 'node:fs';
import path from 'node:path';
import { launch, newPage, open, report } from '../chromium.mjs';

const [address, workflow, video, out] = process.argv.slice(2);
const name = path.basename(workflow, '.json');
const drawn = JSON.parse(fs.readFileSync(workflow, 'utf8')).nodes.length;
const result = { errors: [] };

const browser = await launch();
const page = await newPage(browser, 2300, 1150, result.errors);

const shot = (label) => page.screenshot({ path: path.join(out, `${label}.png`) });
const nodeCount = () => page.evaluate(() => window.app.graph._nodes.length);
const clear = () => page.evaluate(() => window.app.graph.clear());

async function drop(file, mime) {
  const bytes = fs.readFileSync(file).toString('base64');
  await page.evaluate(async ([data, filename, type]) => {
    const binary = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([binary], filename, { type }));
    const canvas = document.querySelector('#graph-canvas') || document.querySelector('canvas');
    for (const kind of ['dragover', 'drop']) {
      canvas.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer, clientX: 900, clientY: 600 }));
    }
  }, [bytes, path.basename(file), mime]);
  // nodes come one by one, on a busy machine over seconds; if some never come, the count says so
  await page.waitForFunction((all) => window.app.graph._nodes.length >= all, drawn, { timeout: 30000 }).catch(() => {});
  await page.waitForTimeout(1500);
}

await report(browser, result, async () => {
  await open(page, address);

  // the template browser, opened as its menu entry opens it
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates'));
  await page.waitForTimeout(2500);
  const group = page.getByText('ComfyUI-EmuVideo', { exact: false }).first();
  await group.click();
  await page.waitForTimeout(2500);
  result.templates = await page.evaluate(() => [...document.querySelectorAll('[data-testid^="template-workflow-"]')].map((e) => e.dataset.testid.slice('template-workflow-'.length)));
  const words = await page.evaluate(() => document.body.innerText);
  result.template_found = words.includes(name) || words.toLowerCase().includes(name.replaceAll('_', ' '));
  await shot('templates');

  await open(page, address); // the gallery closes in different ways in different versions
  await clear();
  await drop(workflow, 'application/json');
  result.nodes_from_json = await nodeCount();
  result.missing = await page.evaluate(() => window.app.graph._nodes.filter((n) => n.has_errors || !window.LiteGraph.registered_node_types[n.type]).map((n) => n.type));
  result.prompt = await page.evaluate(async () => (await window.app.graphToPrompt()).output);
  await shot('dropped_json');

  await page.evaluate(() => window.app.queuePrompt(0, 1));
  await page.waitForFunction(() => document.querySelector('video') !== null || Object.values(window.app.nodeOutputs ?? {}).some((o) => o?.animated || o?.images?.some((i) => i.filename.endsWith('.mp4'))), null, { timeout: 240000 });
  await page.waitForTimeout(6000);
  result.videos_on_page = await page.evaluate(() => [...document.querySelectorAll('video')].map((v) => ({ width: v.videoWidth, height: v.videoHeight, seconds: v.duration })));
  await shot('finished');

  await clear();
  await drop(video, 'video/mp4');
  result.nodes_from_mp4 = await nodeCount();
  await shot('dropped_mp4');
}, () => shot('failed').catch(() => {}));
