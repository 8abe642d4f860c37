// What a translator goes from and to, and what those languages are called.

const NAMES = new Intl.DisplayNames(["en"], { type: "language", fallback: "none" });
const COMMON = ["ar", "de", "en", "es", "fr", "it", "ja", "pl", "pt", "ru", "tr", "uk", "zh"];
const FEW = 8;
export const AUTO = "auto";

// Codes are the checkpoint's: de, zho_Hans, en_XX.
export const languageName = (code) => {
  try {
    return NAMES.of(code.replace(/_XX$/, "").replaceAll("_", "-")) ?? code;
  } catch {
    return code;
  }
};

// A few stay in the checkpoint's order, many are sorted by name.
const options = (codes) => {
  const all = [...new Set(codes)].map((code) => [code, languageName(code)]);
  return all.length > FEW ? all.sort((one, other) => one[1].localeCompare(other[1])) : all;
};

const englishFirst = (some) =>
  [...some].sort((one, other) => other[1].startsWith("English") - one[1].startsWith("English"));

// `languages` as /v1/models has it: pairs, any, or target alone; nothing where the checkpoint names none.
export const sources = (languages = {}) => {
  const codes = languages.pairs ? languages.pairs.map(([source]) => source) : languages.any;
  const known = codes ? englishFirst(options(codes)) : [["", "The model's own"]];
  return [...known, [AUTO, "Detect language"]];
};

export const targets = (languages = {}, source = AUTO) => {
  const { pairs, any = languages.target ?? COMMON } = languages;
  const codes = pairs ? pairs.filter(([from]) => source === AUTO || from === source).map(([, to]) => to) : any;
  return options(codes.filter((code) => code !== source));
};
