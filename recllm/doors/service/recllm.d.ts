/** What was viewed, clicked, put in the cart or bought. Prices are those of the catalogue. */
interface RecllmLine {
  item_id: string;
  /** 1 when left out. */
  quantity?: number;
}

type RecllmLines = string | RecllmLine | readonly (string | RecllmLine)[];

interface Recllm {
  /** true: the visitor gets a random id, and lists are filled. false: the id and what is stored under it are deleted. */
  consent(granted: boolean): Promise<unknown>;
  /** The visitor's id, for `POST /v1/sessions/join` by the shop's server; "" without consent. */
  visitor(): string;
  /** Resolves to whether it was recorded. */
  view(lines: RecllmLines): Promise<boolean>;
  click(lines: RecllmLines): Promise<boolean>;
  cart(lines: RecllmLines): Promise<boolean>;
  purchase(lines: RecllmLines): Promise<boolean>;
  /** Fills every `<div data-recllm-list>` again. basket: ids of the items in the cart. */
  list(basket?: readonly string[]): Promise<void>;
}

declare const recllm: Recllm;

interface Window {
  recllm: Recllm;
}
