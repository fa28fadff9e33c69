// Inserts a blueprint in a real ComfyUI page as people do, by the search box, and runs it: node blueprint.mjs ADDRESS NAME PROMPT OUT.png
// Prints one JSON object: `widgets` and `inputs` of the node, `done`, `prompt` that was sent, `files` that were saved, `errors`.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(process.env.PLAYWRIGHT_CORE ? path.join(process.env.PLAYWRIGHT_CORE, 'x.js') : import.meta.url);
const { chromium } = require('playwright-core');
const [address, name, words, out] = process.argv.slice(2);
const result = { errors: [] };
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
});
try {
  const page = await browser.newPage({ viewport: { width: 1600, height: 900 } });
  page.on('pageerror', (error) => result.errors.push(String(error)));
  page.setDefaultTimeout(90000);
  await page.goto(address, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100);
  await page.waitForTimeout(3500);
  await page.keyboard.press('Escape');
  await page.evaluate(() => {
    window.app.graph.clear();
    window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle');
  });
  await page.waitForTimeout(1500);
  await page.keyboard.type(name);
  await page.waitForTimeout(1500);
  await page.keyboard.press('Enter');
  await page.waitForTimeout(1000);
  await page.mouse.click(700, 300); // it hangs on the pointer until then
  await page.waitForFunction(() => window.app.graph._nodes.length === 1);
  result.inputs = await page.evaluate(() => window.app.graph._nodes[0].inputs.map((input) => [input.name, input.type]));
  result.widgets = await page.evaluate(() => Object.fromEntries(window.app.graph._nodes[0].widgets.map((widget) => [widget.name, widget.value])));
  result.prompt = await page.evaluate(async (text) => {
    const { app, LiteGraph } = window;
    const node = app.graph._nodes[0];
    const place = (type, x, y) => { const one = LiteGraph.createNode(type); one.pos = [x, y]; app.graph.add(one); return one; };
    node.pos = [400, 100];
    node.widgets.find((widget) => widget.name === 'prompt').value = text;
    const image = node.inputs.findIndex((input) => input.name === 'image');
    if (image >= 0) {
      const load = place('LoadImage', 60, 100);
      load.widgets.find((widget) => widget.name === 'image').value = 'emu_video_example.png';
      load.connect(0, node, image);
    }
    node.connect(0, place('SaveVideo', 780, 100), 0);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 100];
    window.done = '';
    window.saved = [];
    app.api.addEventListener('executed', (event) => window.saved.push(...(event.detail?.output?.images ?? []).map((file) => file.filename)));
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
      app.api.addEventListener(kind, (event) => { window.done ||= kind + (kind.endsWith('error') ? JSON.stringify(event.detail) : ''); });
    }
    const sent = (await app.graphToPrompt()).output;
    app.queuePrompt(0, 1);
    return sent;
  }, words);
  await page.waitForFunction(() => window.done, null, { timeout: 240000 });
  await page.waitForTimeout(2500);
  [result.done, result.files] = await page.evaluate(() => [window.done, window.saved]);
  await page.screenshot({ path: out });
} catch (error) {
  result.failed = String(error);
} finally {
  await browser.close();
}
console.log(JSON.stringify(result));
