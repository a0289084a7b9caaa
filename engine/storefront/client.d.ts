/** The types of client.js, Counterpoint's script for the pages of a shop. */

/** A text, a number, or what JSON nests of them. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };
export type Fields = { [name: string]: Json };

/** The identifiers of a visitor. */
export interface Ids {
  user_id?: string;
  anonymous_id: string;
}

/** The visitor's variant in one experiment with its payload, or null, and the reason. */
export interface ExperimentAnswer {
  variant: string | null;
  payload: Fields | null;
  reason: string;
}

/** The offer of one placement. Without an offer the placement stays empty. */
export interface OfferAnswer {
  offer: string | null;
  rendering: Fields;
  reason: string;
  /** Not in answers to a publishable key, as `policy`. */
  propensity?: number;
  policy?: string | null;
  moment?: string;
  /** The end of quiet hours. */
  not_before?: string;
  /** The items of a list, instead of an offer and a rendering. */
  items?: OfferAnswer[];
}

/** The fields of an answer of the engine. */
export interface Answer {
  decision_id: string;
  customer: string;
  plan?: string;
  /** True without an answer, and for one that the engine gave without its store. */
  degraded: boolean;
  /** Seconds for which a page may go on showing the answer. */
  ttl: number;
  experiments: Record<string, ExperimentAnswer>;
  offers: Record<string, OfferAnswer>;
  /** The cart, step and conversation that this channel can resume. */
  resume: Fields;
}

/** One answer of the engine, or the fallback of a call that had none. */
export class Decision implements Answer {
  constructor(answer?: Partial<Answer>);
  decision_id: string;
  customer: string;
  plan?: string;
  degraded: boolean;
  ttl: number;
  experiments: Record<string, ExperimentAnswer>;
  /** By placement; the items of a list also by their names, such as `row[2]`. */
  offers: Record<string, OfferAnswer>;
  resume: Fields;
  /** The key of the visitor's variant, or `fallback` if they have none. */
  variant(experiment: string, fallback: string): string;
  /** The payload of the visitor's variant, or `fallback` if they have none. */
  payload<Payload extends Fields>(experiment: string, fallback: Payload): Payload;
  /** The rendering of a placement's offer: empty if nothing is to be shown, `fallback` if there is no answer. */
  rendering(placement: string, fallback: Fields): Fields;
}

export interface Options {
  /** The address of the engine; that of the page by default. */
  url?: string;
  /** The channel of all requests; `web` by default. */
  channel?: string;
  /** A publishable key. Its customers are proven: see `proof`. */
  key?: string;
  /** The signature that the shop's server makes of the identifiers, or a function that fetches it. */
  proof?: string | ((ids: Ids) => string | Promise<string>);
  /** Milliseconds for an answer; 180 by default. */
  timeout?: number;
  /** False until the visitor has agreed to storage and reports; true by default. */
  consent?: boolean;
  /** The visitor's id if the shop has one, as from a cookie of its server; by default one is made and stored. */
  anonymousId?: string;
  /** The customer, if they are logged in. */
  userId?: string;
}

export interface Request {
  placements?: string[];
  /** Keys, or "*" for all that apply. */
  experiments?: string[] | "*";
  context?: Fields;
  /** The answer if there is none in time. */
  fallback?: Partial<Answer>;
  timeout?: number;
}

/** Draws a rendering into an element. */
export type Draw = (element: HTMLElement, rendering: Fields, offer: OfferAnswer) => void;

/** Parts of a decision. */
export interface Parts {
  placements?: string[];
  experiments?: string[];
}

/** A client of one page, for one channel. */
export class Counterpoint {
  constructor(options?: Options);
  channel: string;
  timeout: number;
  readonly ids: Ids;
  /** Decides; nothing counts as seen until it is. */
  decide(request?: Request): Promise<Decision>;
  /** The value of a flag, or `fallback`; it counts as seen. */
  flag<Value extends Json>(key: string, fallback: Value, options?: { context?: Fields }): Promise<Value>;
  /** Decides for all elements with `data-placement` or `data-experiment` in `root`, and draws them in one frame. */
  show(request?: Omit<Request, "placements"> & { root?: ParentNode; draw?: Draw }): Promise<Decision>;
  /** Draws one element from a decision, reveals it, and reports when it is seen and clicked. */
  draw(element: HTMLElement, decision: Decision, draw?: Draw): void;
  /** Reports parts of a decision as seen once `element` is, and the clicks on it. */
  watch(element: Element, decision: Decision, parts?: Parts): void;
  /** Reports at once that parts of a decision were seen; each part of a decision counts once. */
  expose(decision: Decision, parts?: Parts): void;
  /** Reports what the visitor did; `decision` is the one that caused it. */
  track(event: string, properties?: Fields, decision?: Decision): void;
  /** Reports a click on the offer of a placement. */
  click(decision: Decision, placement: string): void;
  /** Reports traits of the visitor. */
  identify(traits?: Fields): void;
  /** Binds the visitor to a customer: what they saw and did before is that customer's. */
  login(userId: string, traits?: Fields): void;
  /** Forgets the customer; the next visitor of this browser is somebody else. */
  logout(): void;
  /** Grants or withdraws the consent to storage and reports, and to the `purposes` that offers name. */
  consent(granted: boolean, purposes?: string[]): Promise<void>;
  /** Sends what waits; resolves when it is sent, or has to wait longer. */
  flush(): Promise<void>;
}

/** Connects a page to the engine. */
export function connect(options?: Options): Counterpoint;

/** Writes a rendering into the parts with `data-field`: text, the address of a picture, or that of a link. */
export function fill(element: HTMLElement, rendering: Fields): void;
