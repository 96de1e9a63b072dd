// What an event did to a list: which items are new and which moved, in marks and in words.

import type { SlateItem } from "./api";
import { title } from "./words";

export type Mark = { kind: "new" } | { kind: "up" | "down"; by: number };
export type Change = { marks: Map<string, Mark>; words: string };

/** Compares two slates, the first `before.length` places of the second. */
export function change(before: SlateItem[], after: SlateItem[]): Change {
  const place = new Map(before.map((entry, at) => [entry.item, at]));
  const marks = new Map<string, Mark>();
  const fresh: string[] = [];
  let [up, down] = [0, 0];
  after.slice(0, Math.max(before.length, 1)).forEach((entry, at) => {
    const was = place.get(entry.item);
    if (was === undefined) {
      marks.set(entry.item, { kind: "new" });
      fresh.push(title(entry.item, entry.properties));
    } else if (was > at) {
      marks.set(entry.item, { kind: "up", by: was - at });
      up += 1;
    } else if (was < at) {
      marks.set(entry.item, { kind: "down", by: at - was });
      down += 1;
    }
  });
  const parts = [];
  if (fresh.length) {
    const named = fresh.slice(0, 2).map((name) => `“${name}”`).join(" and ");
    parts.push(`${fresh.length} new (${named}${fresh.length > 2 ? ", …" : ""})`);
  }
  if (up) parts.push(`${up} moved up`);
  if (down) parts.push(`${down} moved down`);
  return { marks, words: parts.length ? parts.join(", ") : "the order stayed as it was" };
}
