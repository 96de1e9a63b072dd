// The filter chips: the genres and eras that a sample of the catalogue has, as filter expressions of the API.

import type { Item } from "./api";
import { list } from "./words";

export type Chip = { label: string; filter: string };

const MOST_GENRES = 14;

/** The commonest genres (or categories), commonest first. */
export function genreChips(items: Item[]): Chip[] {
  for (const key of ["genres", "categories"]) {
    const count = new Map<string, number>();
    for (const item of items)
      for (const genre of list(item.properties?.[key])) count.set(genre, (count.get(genre) ?? 0) + 1);
    if (count.size < 2) continue;
    return [...count]
      .sort((a, b) => b[1] - a[1])
      .slice(0, MOST_GENRES)
      .map(([label]) => ({ label, filter: `${JSON.stringify(label)} in item.${key}` }));
  }
  return [];
}

const ERAS: Record<"old" | "new", [string, string][]> = {
  old: [
    ["before 500", "item.year < 500"],
    ["500–1699", "item.year >= 500 and item.year < 1700"],
    ["1700s", "item.year >= 1700 and item.year < 1800"],
    ["1800s", "item.year >= 1800 and item.year < 1900"],
    ["1900 on", "item.year >= 1900"],
  ],
  new: [
    ["before 1960", "item.year < 1960"],
    ["1960–79", "item.year >= 1960 and item.year < 1980"],
    ["1980s", "item.year >= 1980 and item.year < 1990"],
    ["1990s", "item.year >= 1990 and item.year < 2000"],
    ["2000 on", "item.year >= 2000"],
  ],
};

/** Eras that suit the years of the items; none where most items have no year. */
export function eraChips(items: Item[]): Chip[] {
  const years = items.map((item) => Number(item.properties?.year ?? Number.NaN)).filter(Number.isFinite);
  if (years.length * 2 < items.length || years.length === 0) return [];
  const eras = Math.min(...years) < 1850 ? ERAS.old : ERAS.new;
  return eras.map(([label, filter]) => ({ label, filter }));
}

/** All of them at once. */
export const filterOf = (chips: (Chip | undefined)[]) =>
  chips.flatMap((chip) => (chip ? [`(${chip.filter})`] : [])).join(" and ");
