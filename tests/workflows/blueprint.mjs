// Inserts a blueprint in a real ComfyUI page as people do, by the search box, and runs it: node blueprint.mjs ADDRESS NAME PROMPT OUT.png
// Prints one JSON object: `widgets` and `inputs` of the node, `done`, `prompt` that was sent, `files` that were saved, `errors`.
import { launch, newPage, open, report, watchRun } from '../chromium.mjs';

const [address, name, words, out] = process.argv.slice(2);
const result = { errors: [] };
const browser = await launch();
await report(browser, result, async () => {
  const page = await newPage(browser, 1600, 900, result.errors);
  await open(page, address);
  await page.waitForTimeout(1000);
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
  await watchRun(page);
  result.prompt = await page.evaluate(async (text) => {
    const { app, LiteGraph } = window;
    const node = app.graph._nodes[0];
    const place = (type, x, y) => { const one = LiteGraph.createNode(type); one.pos = [x, y]; app.graph.add(one); return one; };
    node.pos = [400, 100];
    node.widgets.find((widget) => widget.name === 'prompt').value = text;
    const image = node.inputs.findIndex((input) => input.type === 'IMAGE');
    if (image >= 0) {
      const load = place('LoadImage', 60, 100);
      load.widgets.find((widget) => widget.name === 'image').value = 'emu_video_dolphin.png';
      load.connect(0, node, image);
    }
    node.connect(0, place('SaveVideo', 780, 100), 0);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 100];
    const sent = (await app.graphToPrompt()).output;
    app.queuePrompt(0, 1);
    return sent;
  }, words);
  await page.waitForFunction(() => window.done, null, { timeout: 240000 });
  await page.waitForTimeout(2500);
  [result.done, result.files] = await page.evaluate(() => [window.done, window.saved]);
  await page.screenshot({ path: out });
});
