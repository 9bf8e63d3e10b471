// The theme reports what it does ("[PST]: ...") on the console, where a reader looks for errors.
const log = console.log;
console.log = (...words) => {
  if (!String(words[0]).startsWith("[PST]")) log.apply(console, words);
};
