// How things of any data set are put into words and pictures: titles, bylines, names, events, covers.

import type { Event, Properties, User } from "./api";

const text = (value: unknown): string | undefined => {
  if (typeof value === "string" && value.trim()) return value.trim();
  return typeof value === "number" ? String(value) : undefined;
};

export const list = (value: unknown): string[] =>
  Array.isArray(value) ? value.filter((entry): entry is string => typeof entry === "string") : [];

export const title = (id: string, properties?: Properties) => text(properties?.title) ?? text(properties?.name) ?? id;

/** Author and year, or whatever of the two there is. */
export function byline(properties?: Properties): string {
  const who = text(properties?.author) ?? text(properties?.director) ?? text(properties?.artist) ?? text(properties?.brand);
  return [who, year(properties)].filter(Boolean).join(", ");
}

function year(properties?: Properties): string | undefined {
  const given = properties?.year;
  if (typeof given === "number" && given < 0) return `${-given} BC`;
  return text(given);
}

export const genres = (properties?: Properties) => {
  const own = list(properties?.genres);
  return own.length ? own : list(properties?.categories);
};

export const about = (properties?: Properties) => text(properties?.description) ?? text(properties?.plot);

/** The picture an item came with, if its address is one a page may load, else the cover the server draws. */
export function picture(id: string, properties?: Properties): string {
  const image = text(properties?.image);
  if (!image) return drawn(id);
  if (/^(https?:\/\/|data:image\/(png|jpeg|webp|gif|avif);base64,)/i.test(image)) return image;
  if (image.startsWith("/") && !image.startsWith("//")) return image;
  return /^[a-z][a-z0-9+.-]*:|^\/\//i.test(image) ? drawn(id) : `/media/${encodeURIComponent(image)}`;
}

export const drawn = (id: string) => `/covers/${encodeURIComponent(id)}.svg`;

/** A bare number is no name. */
export const userName = (user: User) =>
  text(user.properties?.name) ?? (/^\d+$/.test(user.id) ? `User ${user.id}` : user.id);

/** What is known of a person in one line: their taste, or their properties. */
export function userLine(user: User): string {
  const taste = text(user.properties?.taste);
  if (taste) return taste;
  return Object.entries(user.properties ?? {})
    .filter(([key]) => key !== "name" && key !== "simulated")
    .map(([key, value]) => (text(value) ? `${key} ${text(value)}` : ""))
    .filter(Boolean)
    .slice(0, 5)
    .join(" · ");
}

const DONE: Record<string, string> = {
  view: "Looked at",
  read: "Read",
  like: "Liked",
  drop: "Gave up",
  rating: "Rated",
  buy: "Bought",
  watch: "Watched",
  click: "Clicked",
  listen: "Listened to",
};

/** `Read`, `Rated 5`: what an event says somebody did. */
export function done(event: Event): string {
  const word = DONE[event.kind] ?? event.kind.charAt(0).toUpperCase() + event.kind.slice(1);
  return event.kind === "rating" && event.value !== undefined ? `${word} ${event.value}` : word;
}

/** The kinds of event that the buttons send, as this data set has them. */
export type Actions = { good: Pick<Event, "kind" | "value">; bad?: Pick<Event, "kind" | "value"> };

/** Chooses them from a sample of events: what people mostly do, and what says no. */
export function actions(sample: Event[]): Actions {
  const kinds = new Set(sample.map((event) => event.kind));
  const bad = ["drop", "dislike", "skip", "hide"].find((kind) => kinds.has(kind));
  const said = ["read", "like", "buy", "watch", "listen", "rating"].find((kind) => kinds.has(kind));
  const kind = said ?? sample[0]?.kind ?? "view";
  const values = sample.filter((event) => event.kind === kind).map((event) => event.value);
  const rated = values.length > 0 && values.every((value) => value !== undefined);
  if (!rated) return { good: { kind }, ...(bad ? { bad: { kind: bad } } : {}) };
  const [low, high] = [Math.min(...(values as number[])), Math.max(...(values as number[]))];
  return { good: { kind, value: high }, bad: low < high ? { kind, value: low } : undefined };
}

const VERBS: Record<string, string> = {
  read: "I’ve read it",
  like: "I like it",
  buy: "Buy",
  watch: "I’ve seen it",
  listen: "Play",
  rating: "I like it",
  view: "Open",
};

export const verb = (kind: string) => VERBS[kind] ?? kind;

export function when(at: number | undefined): string {
  if (at === undefined) return "";
  const date = new Date(at);
  // Data sets without times count their events 0, 1, 2, …
  if (date.getUTCFullYear() < 1971) return "";
  return date.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
}

/** Three significant digits, so that numbers under each other compare at a glance; large ones whole. */
export const number = (value: number) =>
  !Number.isFinite(value) ? "–" : Math.abs(value) >= 100 ? String(Math.round(value)) : value.toPrecision(3);
