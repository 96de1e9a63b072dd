// The HTTP API as the console uses it: the types of DESIGN §2 and one function per call.

export type Properties = Record<string, unknown>;
export type Item = { id: string; hidden?: boolean; properties?: Properties };
export type User = { id: string; properties?: Properties };
export type Reason = { kind: string; item?: string; share?: number; text: string };
export type SlateItem = {
  item: string;
  score: number;
  source: string;
  reasons: Reason[];
  propensity: number;
  properties?: Properties;
};
export type Slate = {
  id: string;
  items: SlateItem[];
  next?: string;
  artefact?: string | null;
  fallback?: string | null;
  notes?: string[];
};
export type Event = {
  id?: string;
  user: string;
  item: string;
  kind: string;
  at?: number;
  value?: number;
  slate?: string;
  position?: number;
};
export type Query = {
  user?: string;
  wish?: string;
  like?: string[];
  filter?: string;
  exclude?: string[];
  count?: number;
  page?: string;
  context?: Properties;
};
/** A metric's definition, with its 95 % interval where it has one. */
export type Defined = { low?: number; high?: number; variant?: string; candidates?: string; users?: number };
export type Run = {
  recipe: string;
  dataset: { name: string; users: number; items: number; events: number };
  split: string;
  metrics: Record<string, number>;
  seconds: { fit: number; evaluate: number };
  artefact?: string | null;
  definitions?: Record<string, Defined>;
};
export type Artefact = { name: string; kind: string };

/** What went wrong, in the server's own words. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      signal,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server does not answer. Is it still running?", 0);
  }
  const text = await response.text();
  let data: unknown;
  try {
    data = text ? JSON.parse(text) : undefined;
  } catch {
    data = undefined;
  }
  if (!response.ok) {
    const problem = data as { title?: string; detail?: string } | undefined;
    throw new ApiError(problem?.detail ?? problem?.title ?? `The server said ${response.status}.`, response.status);
  }
  return data as T;
}

const path = encodeURIComponent;

export const recommend = (query: Query, signal?: AbortSignal) =>
  call<Slate>("POST", "/v1/recommend", query, signal);

export const postEvent = (event: Event) => call<{ stored: number }>("POST", "/v1/events", event);

export const userEvents = (user: string, limit: number, before?: string) =>
  call<{ events: Event[]; next?: string }>(
    "GET",
    `/v1/users/${path(user)}/events?limit=${limit}${before ? `&before=${path(before)}` : ""}`,
  );

export const getItem = (id: string) => call<Item>("GET", `/v1/items/${path(id)}`);

export const listItems = (limit: number) => call<{ items: Item[] }>("GET", `/v1/items?limit=${limit}`);

export const listUsers = (limit: number, after?: string) =>
  call<{ users: User[]; next?: string }>(
    "GET",
    `/v1/users?limit=${limit}${after ? `&after=${path(after)}` : ""}`,
  );

export const putUser = (id: string, properties: Properties) =>
  call<User>("PUT", `/v1/users/${path(id)}`, { properties });

export const artefacts = () => call<{ artefacts: Artefact[]; published?: string | null }>("GET", "/v1/artefacts");

/** The newest document of measurements, best run first; empty where nothing was measured. */
export async function leaderboard(): Promise<Run[]> {
  const { evaluations } = await call<{ evaluations: ({ runs?: Run[] } | Run)[] }>("GET", "/v1/evaluations");
  const newest = evaluations[0];
  if (!newest) return [];
  if ("runs" in newest) return newest.runs ?? [];
  return evaluations as Run[];
}
