// The owner's page: how far the study is, and whether new raters may sign up. The token comes after the # of the address, which
// browsers do not send, and stays in this tab.
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get('owner') ?? '';
const state = { found: null, asked: 0 };

async function ask(name, body) {
  const settings = { headers: { Authorization: `Bearer ${token}` }, credentials: 'omit', signal: AbortSignal.timeout(20000) };
  if (body !== undefined) Object.assign(settings, { method: 'POST', body: JSON.stringify(body) });
  if (body !== undefined) settings.headers['Content-Type'] = 'application/json';
  const answer = await fetch(`api/${name}`, settings);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ?? `The server answered ${answer.status}.`);
  return found;
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').hidden = !text;
}

function show(found) {
  state.found = found;
  $('title').textContent = found.title;
  $('note').textContent = found.note;
  $('note').hidden = !found.note;
  $('votes').textContent = `${found.votes} of ${found.needed} votes`;
  $('bar').max = found.needed || 1;
  $('bar').value = found.votes;
  const facts = {
    'Complete pairs': `${found.done} of ${found.pairs}`,
    Prompts: found.prompts,
    Raters: `${found.raters}, ${found.new} new in the last hour`,
    'Seats taken now': `${found.held}, ${found.unwatched} of them without a look at a video`,
    'Refused in the last hour': found.refused,
  };
  if (found.crowded) facts['Turned away in the last hour'] = `${found.crowded}: too many from one address, such as a class; docs/study.md says how to allow more`;
  $('facts').replaceChildren(...Object.entries(facts).flatMap((fact) => fact.map((text, index) => {
    const element = document.createElement(index ? 'dd' : 'dt');
    element.textContent = text;
    return element;
  })));
  const open = found.signup_open;
  $('signup').textContent = found.tokens_required ? 'Only raters with a token take part' : open ? 'Sign-up is open' : 'Sign-up is closed';
  $('signup-help').textContent = found.tokens_required
    ? 'Nobody can sign up by a name, open or not.'
    : open ? 'Anybody who reaches the page can take part under a name.' : 'Who has signed up goes on, also with their code on another device. Nobody new comes in.';
  $('turn').textContent = open ? 'Close sign-up' : 'Open sign-up';
  $('turn').hidden = found.tokens_required;
  $('study').hidden = false;
}

async function look(name = 'owner', body = undefined) {
  const number = (state.asked += 1); // only the last answer counts: a click must not be lost to a look that is under way
  try {
    const found = await ask(name, body);
    if (number === state.asked) { show(found); notice(''); }
  } catch (problem) {
    if (number === state.asked) notice(problem.name === 'Error' ? problem.message : 'The server cannot be reached; the page tries again.');
  }
}

$('turn').addEventListener('click', () => look('signup', { open: !state.found.signup_open }));
setInterval(() => { if (!document.hidden) look(); }, 10000);
look();
