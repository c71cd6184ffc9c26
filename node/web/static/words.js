// The words of the page's language: the same catalogue as the server's.

const language = document.documentElement.lang;
const { default: texts } = await import(`./words/${language}.js`);
const plurals = new Intl.PluralRules(language);

/** A text of the catalogue; `count` chooses among forms, `{name}` stands for a value. */
export function t(key, values = {}) {
  let text = texts[key];
  if (text === undefined) throw new Error(`no text for ${key}`);
  if (typeof text === "object") text = text[plurals.select(values.count)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export { language };
